//! `cargo xtask bench --compare A B`: whether two runs say the same.
//!
//! What two runs have in common is ratios: a machine that is slower for an hour is slower for all contenders.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use super::report::Report;

/// The most by which the ratios of two runs may differ.
const TOLERANCE: f64 = 0.05;

/// Prints every target's value in both runs and by how much they differ.
///
/// # Errors
/// Where a run's file cannot be read, or values differ by more than the tolerance.
pub(super) fn print(runs: &[PathBuf]) -> Result<()> {
    let [first, second] = runs else { bail!("name two runs: folders with a bench.json, or such files") };
    let (first, second) = (read(first)?, read(second)?);
    if first.command != second.command {
        eprintln!("`{}` and `{}` take different numbers of samples.", first.command, second.command);
    }
    let pairs = pairs(&first, &second);
    ensure!(!pairs.is_empty(), "the two runs have no target in common that both have measured");
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["", "First", "Second", "Differ by", ""]);
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    for pair in &pairs {
        table.add_row([
            Cell::new(&pair.name),
            number(format!("{:.3}", pair.first)),
            number(format!("{:.3}", pair.second)),
            number(format!("{:.1} %", pair.difference() * 100.0)),
            Cell::new(if pair.repeats() { "✔" } else { "✘" }),
        ]);
    }
    println!("{table}");
    let apart = pairs.iter().filter(|pair| !pair.repeats()).count();
    if apart > 0 {
        bail!("{apart} of {} ratios differ by more than {:.0} %", pairs.len(), TOLERANCE * 100.0);
    }
    println!("All {} ratios are within {:.0} %.", pairs.len(), TOLERANCE * 100.0);
    Ok(())
}

fn read(run: &Path) -> Result<Report> {
    let folder = if run.is_file() { run.parent().context("a file in no folder")? } else { run };
    Report::read(folder)
}

/// One target's value in both runs.
struct Pair {
    name: String,
    first: f64,
    second: f64,
}

impl Pair {
    /// As a part of their mean.
    fn difference(&self) -> f64 {
        (self.first - self.second).abs() / f64::midpoint(self.first, self.second)
    }

    fn repeats(&self) -> bool {
        self.difference() <= TOLERANCE
    }
}

/// The targets that are ratios, in the order of the first run.
fn pairs(first: &Report, second: &Report) -> Vec<Pair> {
    let ratios = first.targets.iter().filter(|target| !target.name.ends_with("ns over an empty program"));
    ratios
        .filter_map(|target| {
            let other = second.targets.iter().find(|other| other.name == target.name)?;
            Some(Pair { name: target.name.clone(), first: target.value?, second: other.value? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Pair;

    #[test]
    fn differences_are_parts_of_the_mean() {
        let pair = |first, second| Pair { name: String::new(), first, second };
        assert!(pair(0.98, 1.02).repeats() && pair(1.02, 0.98).repeats());
        assert!(!pair(0.97, 1.03).repeats());
    }
}
