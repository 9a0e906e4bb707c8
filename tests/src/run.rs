//! Runs a command to its end, bounded in time, with errors that show the command line and what it said.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

/// Longer than anything a lab runs needs on a loaded machine.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// A command to run.
#[derive(Debug, Clone)]
pub struct Run {
    words: Vec<OsString>,
    stdin: Vec<u8>,
    environment: Option<Vec<(OsString, OsString)>>,
    timeout: Duration,
}

impl Run {
    /// `program`, without arguments yet.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            words: vec![program.as_ref().to_owned()],
            stdin: Vec::new(),
            environment: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.words.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        self.words.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// What the command reads on its standard input; nothing by default.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The command's whole environment, instead of this process's.
    #[must_use]
    pub fn environment<K, V>(mut self, variables: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        self.environment = Some(variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect());
        self
    }

    /// Kills the command, and fails, after this long.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs to the end; any exit status is fine.
    pub fn finish(self) -> anyhow::Result<Finished> {
        let line = self.words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let mut words = self.words.into_iter();
        let program = words.next().unwrap_or_default();
        let mut expression =
            duct::cmd(program, words).stdin_bytes(self.stdin).stdout_capture().stderr_capture().unchecked();
        if let Some(environment) = self.environment {
            expression = expression.full_env(environment);
        }
        let handle = expression.start().with_context(|| format!("starting `{line}`"))?;
        let finished = handle.wait_timeout(self.timeout).with_context(|| format!("waiting for `{line}`"))?;
        let Some(output) = finished.cloned() else {
            handle.kill().with_context(|| format!("killing `{line}`"))?;
            bail!("`{line}` did not end within {:?}", self.timeout);
        };
        Ok(Finished {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs to the end and gives what the command printed; any exit status but 0 is an error.
    pub fn read(self) -> anyhow::Result<String> {
        self.finish()?.success()
    }
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command line.
    pub line: String,
    /// The exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
}

impl Finished {
    /// What the command printed, if its exit status was 0.
    pub fn success(self) -> anyhow::Result<String> {
        let status =
            self.code.map_or_else(|| "killed by a signal".to_owned(), |code| format!("exit status {code}"));
        ensure!(
            self.code == Some(0),
            "`{}` failed ({status}): {}",
            self.line,
            [self.stderr.trim(), self.stdout.trim()]
                .into_iter()
                .filter(|s| !s.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
        );
        Ok(self.stdout)
    }
}
