//! Reading the kernel's own structures.

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// A member of a structure, so many bytes into it; `None` where there is no such memory.
#[inline(always)]
pub fn read<T: Copy>(structure: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address, and fails where it is none; any bytes are valid for the types read.
    unsafe { bpf_probe_read_kernel(structure.wrapping_add(offset as usize).cast::<T>()) }.ok()
}
