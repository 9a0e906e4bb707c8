//! `bench.json`, and the same as tables.

use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{
    Cell, CellAlignment, ContentArrangement, Table,
    presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED},
};
use podlane_tests::bench::attach::Network;
use podlane_tests::bench::{ProgramSize, Row};
use serde::{Deserialize, Serialize};

use super::network::Proof;
use super::plan::Plan;
use super::targets::Target;
use super::{Parts, cni, figures, machine};

/// The whole file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) machine: String,
    pub(super) kernel: String,
    pub(super) date: String,
    pub(super) commit: String,
    pub(super) command: String,
    pub(super) contenders: Vec<Proof>,
    pub(super) programs: Vec<ProgramSize>,
    pub(super) rows: Vec<Row>,
    pub(super) targets: Vec<Target>,
}

impl Report {
    pub(super) fn about_this_machine(plan: &Plan, parts: Parts) -> Result<Self> {
        Ok(Self {
            machine: machine::machine(),
            kernel: machine::kernel(),
            date: machine::date(),
            commit: machine::commit(),
            command: format!(
                "cargo xtask bench{}{}{}",
                match parts {
                    Parts { network: true, .. } => "",
                    Parts { programs: true, .. } => " programs",
                    Parts { .. } => " cni",
                },
                if plan.quick { " --quick" } else { "" },
                plan.other_limit().map(|minutes| format!(" --minutes {minutes}")).unwrap_or_default()
            ),
            contenders: Vec::new(),
            programs: Vec::new(),
            rows: Vec::new(),
            targets: Vec::new(),
        })
    }

    pub(super) fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("bench.json");
        let text =
            fs_err::read_to_string(&file).context("run `cargo xtask bench` first, or name its --out")?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs_err::write(folder.join("bench.json"), serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }

    /// The network row with that contender and metric.
    pub(super) fn network(&self, topology: &str, who: (&str, bool), ipv6: bool, metric: &str) -> Option<f64> {
        find(&self.rows, topology, who, ipv6, metric)
    }

    /// The contenders, in the order they were built.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, bool)> {
        self.contenders.iter().map(|proof| (proof.contender.as_str(), proof.netfilter))
    }

    pub(super) fn text(&self) -> String {
        let mut text =
            format!("\n{}\n{}, {}, commit {}\n", self.machine, self.kernel, self.date, self.commit);
        if !self.programs.is_empty() {
            text +=
                &format!("\nPrograms, ns per packet over an empty program:\n\n{}\n", self.programs_table());
        }
        if !self.contenders.is_empty() {
            for (topology, words) in [("same-node", "on one node"), ("across-nodes", "across nodes")] {
                text += &format!(
                    "\nPod to pod {words}, IPv4, beside the wire (forwarded frames: beside tc-floor), medians:\n\n{}\n",
                    self.network_table(topology)
                );
            }
        }
        if self.has_cni() {
            text +=
                &format!("\nAttaching pods, ms, one at a time and 110 at once:\n\n{}\n", self.cni_table());
        }
        text + &format!("\nTargets:\n\n{}\n", self.targets_table())
    }

    /// Whether attaching pods was measured.
    pub(super) fn has_cni(&self) -> bool {
        self.rows.iter().any(|row| row.bench == "cni")
    }

    /// The table of the plugins, for Markdown.
    pub(super) fn cni_markdown(&self) -> String {
        markdown(self.cni_table())
    }

    fn cni_table(&self) -> Table {
        let headings = cni::COLUMNS.map(|(_, heading)| heading.to_owned());
        let mut table = empty_table(["".to_owned()].into_iter().chain(headings));
        for network in Network::ALL {
            let figures = cni::COLUMNS.map(|(metric, _)| {
                let value = cni::find(&self.rows, network.name(), metric);
                number(value.map(|value| format!("{value:.1}")).unwrap_or_default())
            });
            table.add_row([Cell::new(network.name())].into_iter().chain(figures));
        }
        table
    }

    /// The table of a topology, for Markdown.
    pub(super) fn network_markdown(&self, topology: &str) -> String {
        markdown(self.network_table(topology))
    }

    /// The table of the programs, for Markdown.
    pub(super) fn programs_markdown(&self) -> String {
        markdown(self.programs_table())
    }

    fn network_table(&self, topology: &str) -> Table {
        let columns: Vec<_> = figures::ALL
            .into_iter()
            .filter(|column| self.names().any(|who| column.figure(self, topology, who).is_some()))
            .collect();
        let headings = columns.iter().map(|column| column.heading.to_owned());
        let mut table = empty_table(["".to_owned()].into_iter().chain(headings));
        for who in self.names() {
            let figures =
                columns.iter().map(|column| number(column.figure(self, topology, who).unwrap_or_default()));
            table.add_row([Cell::new(label(who))].into_iter().chain(figures));
        }
        table
    }

    fn programs_table(&self) -> Table {
        let mut loads: Vec<_> = self.rows.iter().filter_map(load).collect();
        loads.sort_unstable();
        loads.dedup();
        let headings =
            loads.iter().map(|(flows, pods, nodes)| format!("{flows} flows, {pods} pods, {nodes} nodes"));
        let mut table = empty_table(["Program and path".to_owned()].into_iter().chain(headings));
        let over: Vec<&Row> = self.rows.iter().filter(|row| row.metric == "over-empty-program").collect();
        let mut ways: Vec<_> = Vec::new();
        for row in &over {
            let way = (&row.program, &row.path, &row.family);
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        for way in ways {
            let (program, path, family) = way;
            let mut cells = vec![Cell::new(format!(
                "{} {} {family}",
                program.as_deref().unwrap_or_default(),
                path.as_deref().unwrap_or_default()
            ))];
            for wanted in &loads {
                let row = over.iter().find(|row| {
                    (&row.program, &row.path, &row.family) == way && load(row).as_ref() == Some(wanted)
                });
                cells.push(number(row.map(|row| format!("{:.1}", row.median)).unwrap_or_default()));
            }
            table.add_row(cells);
        }
        table
    }

    fn targets_table(&self) -> Table {
        let mut table = empty_table(["", "Target", "Reached", "", "tc floor"].map(str::to_owned));
        for target in &self.targets {
            table.add_row([
                Cell::new(&target.name),
                Cell::new(&target.target),
                number(target.reached()),
                Cell::new(target.mark()),
                number(target.floor()),
            ]);
        }
        table
    }
}

/// A contender as the tables call it.
pub(super) fn label((contender, netfilter): (&str, bool)) -> String {
    format!("{contender}{}", if netfilter { " + netfilter" } else { "" })
}

/// The median of the network row with that contender and metric.
pub(super) fn find(
    rows: &[Row],
    topology: &str,
    (contender, netfilter): (&str, bool),
    ipv6: bool,
    metric: &str,
) -> Option<f64> {
    let family = if ipv6 { "ipv6" } else { "ipv4" };
    let row = rows.iter().find(|row| {
        row.metric == metric
            && row.family == family
            && row.topology.as_deref() == Some(topology)
            && row.contender.as_deref() == Some(contender)
            && row.netfilter == Some(netfilter)
    });
    row.map(|row| row.median)
}

/// Flows, pods and nodes of a program's row.
fn load(row: &Row) -> Option<(u32, u32, u32)> {
    Some((row.flows?, row.pods?, row.nodes?))
}

fn markdown(mut table: Table) -> String {
    table.load_style(ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    format!("{table}\n")
}

fn number(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn empty_table(header: impl IntoIterator<Item = String>) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.into_iter().collect::<Vec<_>>());
    table
}
