//! Memory that is free goes back to the kernel: an agent's work comes in bursts (the kernel's types, lists of thousands of
//! nodes), and its allocator would keep what they needed.

/// Gives back what the allocator holds and nobody uses.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and glibc's allocator may be trimmed at any time (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
