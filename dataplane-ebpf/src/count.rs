//! Counting: one element of a per-CPU array for each hook and verdict.

use dataplane_common::{Hook, Verdict, counter_index};

use crate::maps::counters;

/// Counts packets whose sizes are not known.
#[inline(always)]
pub fn count_many(hook: Hook, verdict: Verdict, packets: u64) {
    if let Some(counter) = counters.get_ptr_mut(counter_index(hook, verdict)) {
        // SAFETY: as below.
        unsafe { (*counter).packets += packets };
    }
}

/// Counts a packet of `bytes` bytes.
#[inline(always)]
pub fn count(hook: Hook, verdict: Verdict, bytes: u32) {
    if let Some(counter) = counters.get_ptr_mut(counter_index(hook, verdict)) {
        // SAFETY: this CPU's own element; programs on one CPU do not preempt each other (migration is disabled and
        // tc programs run with bottom halves off).
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}
