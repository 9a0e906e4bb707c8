//! Root, when something needs it: as we are, or through sudo.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Set for the process that sudo starts: set-up and build were done before, by the user.
const PREPARED: &str = "PODLANE_XTASK_PREPARED";

/// What sudo must not reset: where cargo and rustup keep their things, and our own settings.
const KEPT: [&str; 8] = [
    "CARGO",
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TERM",
];

/// How this process gets at root's rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// It has them.
    Root,
    /// Through sudo.
    Sudo,
    /// Not at all.
    None,
}

impl Privilege {
    /// How it is for this process.
    pub(crate) fn current() -> Self {
        if nix::unistd::geteuid().is_root() {
            Self::Root
        } else if command::find("sudo").is_some() {
            Self::Sudo
        } else {
            Self::None
        }
    }
}

/// Whether a parent of this process did set-up and build already.
pub(crate) fn is_prepared() -> bool {
    std::env::var_os(PREPARED).is_some()
}

/// A command that runs as root. Asks for sudo's password now, before a progress bar hides the question.
pub(crate) fn root_command(program: &str) -> Result<Command> {
    match Privilege::current() {
        Privilege::Root => Ok(Command::new(program)),
        Privilege::Sudo => {
            ask_password()?;
            let mut command = Command::new("sudo");
            command.args(["env", "DEBIAN_FRONTEND=noninteractive", program]);
            Ok(command)
        }
        Privilege::None => bail!("{program} needs root, and there is no sudo: run this as root"),
    }
}

/// Goes on as root: returns if this is root, else replaces this process with itself under sudo.
pub(crate) fn become_root(why: &str) -> Result<()> {
    match Privilege::current() {
        Privilege::Root => Ok(()),
        Privilege::None => bail!("{why}: that needs root, and there is no sudo: run this as root"),
        Privilege::Sudo => {
            eprintln!("{why}: going on as root through sudo.");
            let program = std::env::current_exe().context("finding the path of this program")?;
            let mut words = sudo_words(&environment(), true);
            words.push(program.into_os_string());
            words.extend(std::env::args_os().skip(1));
            let error = Command::new(&words[0]).args(&words[1..]).exec();
            Err(error).context("starting sudo")
        }
    }
}

/// `sudo env …` in front of a test program, for cargo's `runner` setting; nothing for root.
pub(crate) fn test_runner() -> Result<Vec<OsString>> {
    match Privilege::current() {
        Privilege::Root => Ok(Vec::new()),
        Privilege::None => bail!("the end-to-end tests need root, and there is no sudo: run this as root"),
        Privilege::Sudo => {
            ask_password()?;
            Ok(sudo_words(&environment(), false))
        }
    }
}

fn ask_password() -> Result<()> {
    let silent =
        Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|output| output.status.success());
    if !silent {
        let status = Command::new("sudo").arg("-v").status().context("starting sudo")?;
        if !status.success() {
            bail!("sudo refused: run this as root, or as a user who may use sudo");
        }
    }
    Ok(())
}

fn environment() -> Vec<(OsString, OsString)> {
    let mut variables: Vec<_> = std::env::vars_os().filter(|(name, _)| name != "PATH").collect();
    if let Ok(path) = std::env::join_paths(command::search_path()) {
        variables.push(("PATH".into(), path));
    }
    // Under sudo HOME is root's: say where the user's toolchains and crates are even where the default was used.
    for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        if std::env::var_os(name).is_none()
            && let Some(home) = std::env::home_dir()
        {
            variables.push((name.into(), home.join(folder).into_os_string()));
        }
    }
    variables
}

/// `sudo env NAME=VALUE…`: that passes what `sudo -E` may be forbidden to, PATH first of all.
fn sudo_words(environment: &[(OsString, OsString)], prepared: bool) -> Vec<OsString> {
    let kept = |name: &OsStr| {
        let name = name.to_string_lossy();
        name == "PATH" || KEPT.contains(&name.as_ref()) || name.starts_with("PODLANE_")
    };
    let mut words: Vec<OsString> = vec!["sudo".into(), "env".into()];
    for (name, value) in environment.iter().filter(|(name, _)| kept(name) && name != PREPARED) {
        let mut word = name.clone();
        word.push("=");
        word.push(value);
        words.push(word);
    }
    if prepared {
        words.push(format!("{PREPARED}=1").into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(environment: &[(&str, &str)], prepared: bool) -> Vec<String> {
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        sudo_words(&environment, prepared).into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn sudo_keeps_path_and_the_homes_of_cargo_and_rustup() {
        let environment =
            [("PATH", "/a b:/c"), ("CARGO_HOME", "/x/.cargo"), ("RUSTUP_HOME", "/x/.rustup"), ("HOME", "/x")];
        assert_eq!(
            words(&environment, false),
            ["sudo", "env", "PATH=/a b:/c", "CARGO_HOME=/x/.cargo", "RUSTUP_HOME=/x/.rustup"]
        );
    }

    #[test]
    fn sudo_keeps_our_settings_and_nothing_secret() {
        let environment = [("PODLANE_ATTACH", "clsact"), ("AWS_SECRET_ACCESS_KEY", "s"), ("LD_PRELOAD", "x")];
        assert_eq!(words(&environment, false), ["sudo", "env", "PODLANE_ATTACH=clsact"]);
    }

    #[test]
    fn the_process_under_sudo_knows_that_set_up_is_done() {
        assert_eq!(words(&[(PREPARED, "1")], true), ["sudo", "env", "PODLANE_XTASK_PREPARED=1"]);
        assert_eq!(words(&[(PREPARED, "1")], false), ["sudo", "env"]);
    }
}
