//! Little memory: an agent's work comes in bursts (the kernel's types, lists of thousands of nodes), and its allocator
//! would keep what they needed, once for each thread.

/// Larger pieces get pages of their own, which go back as soon as they are freed; glibc would raise this by itself.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;

/// Tells the allocator how this process uses memory. Call it before there is a second thread.
pub fn prepare() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; there is no other thread yet (mallopt(3)).
    unsafe {
        // The threads seldom allocate at the same time, and each arena keeps its own holes.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Gives back what the allocator holds and nobody uses.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and glibc's allocator may be trimmed at any time (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
