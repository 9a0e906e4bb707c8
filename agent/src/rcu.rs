//! Shorter waits for the kernel's RCU grace periods, while pods' programs come and go.
//!
//! Attaching and detaching a tcx program waits for a grace period under the lock that guards all network devices of the
//! machine (`rtnl`): 10 ms and more each, during which nobody else changes anything either. `/sys/kernel/rcu_expedited`
//! makes such a wait take a fraction of a millisecond, at the cost of interrupting all CPUs that are busy in the kernel;
//! the kernel itself does so for other changes of devices. It is set for as long as one of our changes takes.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The kernel's switch: 0 or 1 (more for nested users inside the kernel).
const SWITCH: &str = "/sys/kernel/rcu_expedited";
/// In the run directory while the switch is on because of us, so that a killed agent's successor turns it off.
const MARKER: &str = "rcu-expedited";

static STATE: Mutex<State> = Mutex::new(State { marker: None, holders: 0, ours: false });

struct State {
    /// None before [`prepare`], and where the operator does not want it: nothing is expedited then.
    marker: Option<PathBuf>,
    holders: usize,
    /// We have turned it on, and so turn it off.
    ours: bool,
}

/// From now on [`expedite`] has an effect, if that is `wanted`. Turns off what an agent that was killed has left on.
pub(crate) fn prepare(run_dir: &Path, wanted: bool) {
    let mut state = state();
    let marker = run_dir.join(MARKER);
    state.ours = marker.exists();
    state.marker = Some(marker);
    state.turn_off();
    if !wanted {
        state.marker = None;
    }
}

/// Until the value is dropped, grace periods are short. Where the switch cannot be set they take their time.
pub(crate) fn expedite() -> Expedited {
    let mut state = state();
    state.holders += 1;
    if state.holders == 1 {
        state.turn_on();
    }
    Expedited(())
}

/// See [`expedite`].
pub(crate) struct Expedited(());

impl Drop for Expedited {
    fn drop(&mut self) {
        let mut state = state();
        state.holders -= 1;
        if state.holders == 0 {
            state.turn_off();
        }
    }
}

impl State {
    fn turn_on(&mut self) {
        // Somebody else's setting stays as it is.
        let Some(marker) = &self.marker else { return };
        if std::fs::read(SWITCH).is_ok_and(|value| value.trim_ascii() == b"0") {
            self.ours = std::fs::write(marker, "").and_then(|()| write("1")).is_ok();
        }
    }

    fn turn_off(&mut self) {
        let Some(marker) = self.marker.as_ref().filter(|_| self.ours) else { return };
        let result = write("0").and_then(|()| std::fs::remove_file(marker));
        match result {
            Ok(()) => self.ours = false,
            Err(error) => tracing::warn!(%error, "{SWITCH} is still 1, though it should be 0 again"),
        }
    }
}

fn write(value: &str) -> io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(SWITCH)?.write_all(value.as_bytes())
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
