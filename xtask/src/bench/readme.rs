//! The performance section of the README, from `bench.json`.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::report::{Report, label};

const BEGIN: &str = "<!-- performance: begin (written by `cargo xtask bench --readme README.md`) -->";
const END: &str = "<!-- performance: end -->";

/// Replaces what stands between the markers; a file without them gets them at its end.
pub(super) fn write(file: &Path, report: &Report) -> Result<()> {
    let text = if file.exists() { fs_err::read_to_string(file)? } else { String::new() };
    let replaced = replace(&text, &section(report)?)
        .with_context(|| format!("{} has one of the markers, not both: {BEGIN} and {END}", file.display()))?;
    fs_err::write(file, replaced)?;
    eprintln!("Wrote the performance section of {}.", file.display());
    Ok(())
}

fn replace(text: &str, section: &str) -> Option<String> {
    let block = format!("{BEGIN}\n{section}{END}");
    match (text.find(BEGIN), text.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            Some(format!("{}{block}{}", &text[..begin], &text[end + END.len()..]))
        }
        (None, None) => Some(format!(
            "{}{block}\n",
            if text.is_empty() { String::new() } else { format!("{}\n\n", text.trim_end()) }
        )),
        _ => None,
    }
}

/// Contender, without and with a typical node's netfilter rules.
fn section(report: &Report) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "\nMedians of one run, IPv4; round trips in µs, both ends on one CPU.\n")?;
    writeln!(
        text,
        "| | TCP, same node | UDP, same node | TCP, across nodes | UDP, across nodes | UDP 64 B packets/s, across nodes |"
    )?;
    writeln!(text, "|---|--:|--:|--:|--:|--:|")?;
    for who in report.names() {
        let time = |topology, metric| {
            let value = report.network(topology, who, false, metric);
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"))
        };
        let rate = report.network("across-nodes", who, false, "udp-64-pps");
        let rate = rate.map_or_else(|| "–".to_owned(), |rate| format!("{:.0} k", rate / 1e3));
        let name = if who.0.starts_with("podlane") { format!("**{}**", label(who)) } else { label(who) };
        writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {rate} |",
            time("same-node", "tcp-rtt-p50"),
            time("same-node", "udp-rtt-p50"),
            time("across-nodes", "tcp-rtt-p50"),
            time("across-nodes", "udp-rtt-p50"),
        )?;
    }
    let met = report.targets.iter().filter(|target| target.met).count();
    writeln!(
        text,
        "\n*wire*: one veth pair, and host to host: the limit. *+ netfilter*: conntrack, masquerading and kube-proxy's rules \
         for 1,000 services. {met} of {} targets are met; [docs/performance.md](docs/performance.md) has all of them, the \
         method and the programs' own cost.\n",
        report.targets.len(),
    )?;
    writeln!(
        text,
        "Measured on {} by `{}` at commit {}: {}, {}.\n",
        report.date, report.command, report.commit, report.machine, report.kernel
    )?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, replace};

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let text = format!("# A\n\n{BEGIN}\nold\n{END}\n\n## B\n");
        let new = replace(&text, "new\n").unwrap();
        assert_eq!(new, format!("# A\n\n{BEGIN}\nnew\n{END}\n\n## B\n"));
        assert_eq!(replace(&new, "new\n").unwrap(), new);
    }

    #[test]
    fn a_file_without_markers_gets_them_at_its_end() {
        assert_eq!(replace("# A\n", "new\n").unwrap(), format!("# A\n\n{BEGIN}\nnew\n{END}\n"));
        assert_eq!(replace("", "new\n").unwrap(), format!("{BEGIN}\nnew\n{END}\n"));
    }

    #[test]
    fn half_a_pair_of_markers_is_an_error() {
        assert_eq!(replace(&format!("{END}{BEGIN}"), "new"), None);
        assert_eq!(replace(BEGIN, "new"), None);
    }
}
