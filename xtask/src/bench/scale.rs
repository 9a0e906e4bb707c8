//! `cargo xtask bench scale`: one real agent among thousands of nodes that exist only in its source.

use std::time::Duration;

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use podlane_tests::Binaries;
use podlane_tests::bench::scale::{Scale, Size, measure};
use podlane_tests::sources::{EtcdSource, FileSource, KubernetesSource};

use super::How;
use crate::build::{self, Profile};
use crate::progress::heading;
use crate::setup::{self, Scope};
use crate::{privilege, workspace};

const FULL: Size = Size { nodes: 5000, changes: 40, watched: Duration::from_secs(120) };
const QUICK: Size = Size { nodes: 5000, changes: 10, watched: Duration::from_secs(35) };

/// What it should cost at most.
const CONVERGED: Duration = Duration::from_secs(2);
const CHANGE: Duration = Duration::from_millis(50);
const RSS: u64 = 32 << 20;

pub(super) fn run(how: How) -> Result<()> {
    setup::ensure(Scope::Lab)?;
    let binaries = Binaries::in_dir(&build::binaries(Profile::Release)?)?;
    privilege::become_root("the bench builds a network namespace and loads eBPF programs")?;
    let out = match how.out {
        Some(folder) => std::path::absolute(&folder)?,
        None => workspace::target_dir()?.join("bench"),
    };
    let size = if how.quick { QUICK } else { FULL };
    heading(&format!("An agent among {} nodes", size.nodes));
    let results = [
        measure::<FileSource>("file", &binaries, size).context("the cluster file")?,
        measure::<EtcdSource>("etcd", &binaries, size).context("etcd")?,
        measure::<KubernetesSource>("kubernetes", &binaries, size).context("the Kubernetes API")?,
    ];
    println!("{}", table(&results));
    fs_err::create_dir_all(&out)?;
    let file = out.join("scale.json");
    fs_err::write(&file, serde_json::to_string_pretty(&results)?)?;
    println!("\nWritten to {}.", file.display());
    Ok(())
}

/// Rows are figures, columns are sources.
fn table(results: &[Scale]) -> Table {
    type Figure = fn(&Scale) -> String;
    let rows: [(String, Figure); 9] = [
        (format!("converged after the first full list (goal: {CONVERGED:?})"), |one| ms(one.converged)),
        ("started, from the start of the process".to_owned(), |one| ms(one.started)),
        ("restarted, with everything in place".to_owned(), |one| ms(one.restarted)),
        (format!("one change applied, median (goal: {})", ms(CHANGE)), |one| ms(one.change_median)),
        ("one change applied, slowest".to_owned(), |one| ms(one.change_slowest)),
        (format!("resident memory (goal: {} MiB)", RSS >> 20), |one| mib(one.rss)),
        ("resident memory, peak".to_owned(), |one| mib(one.peak_rss)),
        ("memory of the maps".to_owned(), |one| mib(one.map_memory)),
        ("CPU, 1 % of the nodes changing a minute / nothing changing".to_owned(), |one| {
            format!("{:.2} % / {:.2} %", one.cpu_changing * 100.0, one.cpu_idle * 100.0)
        }),
    ];
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    let nodes = results.first().map_or(0, |one| one.nodes);
    let sources = results.iter().map(|one| one.source.clone());
    table.set_header(std::iter::once(format!("{nodes} nodes")).chain(sources));
    for (name, figure) in rows {
        table.add_row(std::iter::once(name).chain(results.iter().map(figure)));
    }
    table
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn mib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "to one decimal")]
    let value = bytes as f64 / f64::from(1 << 20);
    format!("{value:.1} MiB")
}
