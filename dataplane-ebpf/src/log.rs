//! Logging of drops, for debugging: off unless the agent sets `logDrops`.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::warn;

/// Logs a drop. Hook and reason are numbers (docs/maps.md names them), which keeps this small.
///
/// A function of its own, called on the drop path only. `AYA_LOG_LEVEL` is a frozen constant when the program is
/// loaded: with logging off the verifier removes the body.
#[inline(never)]
pub fn log_drop(ctx: &TcContext, hook: u32, reason: u32) {
    warn!(ctx, "drop: hook {}, reason {}, {} bytes", hook, reason, ctx.len());
}
