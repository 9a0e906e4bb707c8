//! Long commands run quietly: a spinner, or a line now and then where there is no terminal. Failures are shown in full.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::command::display;

/// Without a terminal: how often a line says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Prints a section's heading.
pub(crate) fn heading(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\n\x1b[1m== {text}\x1b[0m");
    } else {
        eprintln!("\n== {text}");
    }
}

/// Seconds as people write them.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{} s", time.as_secs()),
        long => format!("{} min {:02} s", long / 60, long % 60),
    }
}

/// Runs a command with its output hidden, showing that it lives. An error carries all of its output.
pub(crate) fn run_quietly(label: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{}`", display(command)))?;
    let (sender, lines) = channel();
    for stream in [
        child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
    ] {
        forward(stream, sender.clone());
    }
    drop(sender);

    let bar = spinner(label);
    let mut output = String::new();
    let (mut latest, mut spoke) = (String::new(), start);
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                if !line.trim().is_empty() {
                    line.trim().clone_into(&mut latest);
                    bar.set_message(latest.clone());
                }
                output.push_str(&line);
                output.push('\n');
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if bar.is_hidden() && spoke.elapsed() >= HEARTBEAT {
            spoke = Instant::now();
            eprintln!("   {label}: {} so far ({latest})", seconds(start.elapsed()));
        }
    }
    let status = child.wait().with_context(|| format!("waiting for `{}`", display(command)))?;
    bar.finish_and_clear();
    if !status.success() {
        eprintln!("{output}");
        bail!("`{}` failed ({status}); its output is above", display(command));
    }
    // What took a while is worth a line.
    if start.elapsed() > Duration::from_secs(2) {
        eprintln!("   {label}: {}", seconds(start.elapsed()));
    }
    Ok(())
}

fn forward(stream: Option<Box<dyn Read + Send>>, sender: Sender<String>) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
}

fn spinner(label: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("   {spinner} {prefix} {elapsed} {wide_msg:.dim}");
    let bar = ProgressBar::new_spinner().with_prefix(label.to_owned());
    let bar = match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    };
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(340)), "0.3 s");
        assert_eq!(seconds(Duration::from_secs(42)), "42 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 min 05 s");
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = run_quietly("failing", Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(error.to_string().contains("`sh -c exit 3` failed (exit status: 3)"), "{error}");
    }
}
