//! Steps at which a test can kill the agent, as a power cut would. Only in builds with debug assertions.
//!
//! A number N in `<runDir>/failpoint` lets the agent die at the Nth step from now: a test counts up until nobody dies
//! any more, and so has been everywhere without knowing the steps' names.

use std::path::Path;

/// The file's name in the run directory.
const FILE: &str = "failpoint";

#[cfg(debug_assertions)]
static RUN_DIR: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
#[cfg(debug_assertions)]
static COUNTING: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Says where the file is to be looked for. Without this no step does anything.
pub(crate) fn look_in(run_dir: &Path) {
    #[cfg(debug_assertions)]
    RUN_DIR.get_or_init(|| run_dir.to_owned());
    #[cfg(not(debug_assertions))]
    let _ = (run_dir, FILE);
}

/// Something was just changed.
#[inline]
pub(crate) fn step(name: &str) {
    #[cfg(debug_assertions)]
    if let Some(run_dir) = RUN_DIR.get() {
        count(&run_dir.join(FILE), name);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
fn count(file: &Path, step: &str) {
    let _one_at_a_time = COUNTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Ok(text) = std::fs::read_to_string(file) else { return };
    match text.trim().parse::<u32>() {
        Ok(0 | 1) => {
            let _ = std::fs::remove_file(file);
            eprintln!("failpoint: dying after step \"{step}\"");
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        }
        Ok(left) => {
            let _ = std::fs::write(file, (left - 1).to_string());
        }
        Err(_) => {}
    }
}
