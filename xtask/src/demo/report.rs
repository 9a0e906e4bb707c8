//! The demo's result, for people and for programs.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::checks::Check;
use super::kept::KeptLab;
use super::performance::Way;
use crate::progress::seconds;

/// Lines about failures that a check shows; a broken network fails all pairs.
const SHOWN_FAILURES: usize = 6;

/// Everything the demo found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether all of it held.
    pub(super) ok: bool,
    pub(super) nodes: usize,
    pub(super) pods: usize,
    pub(super) checks: Vec<Check>,
    pub(super) performance: Vec<Way>,
    pub(super) seconds: f64,
    /// The lab, if it was kept.
    pub(super) kept: Option<KeptLab>,
}

impl Report {
    /// Two tables and some words.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "\n{} nodes with {} pods in all, each a network namespace on this machine:\n\n{}\n",
            self.nodes,
            self.pods,
            self.checks_table(),
        );
        for check in self.checks.iter().filter(|check| !check.failures.is_empty()) {
            text += &format!("\n{}:\n", check.what);
            for failure in check.failures.iter().take(SHOWN_FAILURES) {
                text += &format!("   {failure}\n");
            }
            if let Some(more) = check.failures.len().checked_sub(SHOWN_FAILURES).filter(|more| *more > 0) {
                text += &format!("   and {more} more\n");
            }
        }
        text += &format!(
            "\nPod to pod over TCP, Podlane and the classic network (bridges and routes):\n\n{}\n",
            self.ways()
        );
        if let Some(kept) = &self.kept {
            text += &format!("\n{}\n", kept.text());
        }
        let verdict = if self.ok { "All of it held" } else { "NOT all of it held" };
        text + &format!("\n{verdict} ({}).", seconds(std::time::Duration::from_secs_f64(self.seconds)))
    }

    fn checks_table(&self) -> Table {
        let mut table = empty_table(["What", "Found", ""]);
        for check in &self.checks {
            table.add_row([check.what, &check.result, if check.ok { "✔" } else { "FAILED" }]);
        }
        table
    }

    fn ways(&self) -> Table {
        let mut table = empty_table(["", "Podlane", "Classic"]);
        let mut row = |what: String, podlane: String, classic: String| {
            let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
            table.add_row([Cell::new(what), number(podlane), number(classic)]);
        };
        for Way { way, podlane, classic } in &self.performance {
            let show = |gbit: f64| format!("{gbit:.1} Gbit/s");
            row(format!("Throughput {way}"), show(podlane.gbit_per_second), show(classic.gbit_per_second));
        }
        for Way { way, podlane, classic } in &self.performance {
            let show = |time: f64| format!("{time:.1} µs");
            let (podlane, classic) = (podlane.round_trip_microseconds, classic.round_trip_microseconds);
            row(format!("Round trip {way} (median)"), show(podlane), show(classic));
        }
        table
    }
}

fn empty_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}
