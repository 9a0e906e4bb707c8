//! Figures in Markdown files, from `bench.json`: the README's performance section, the tables of docs/performance.md.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};

use super::cni;
use super::figures::{PACKETS, TCP, UDP};
use super::report::{Report, label};
use super::targets::Target;

/// The blocks that a file may have, each between markers of its name: the README's summary, everything about packets,
/// and attaching pods.
const SUMMARY: &str = "performance";
const FIGURES: &str = "figures";
const ATTACHING: &str = "attaching";

/// Replaces what stands between the markers; a file without any gets the summary at its end.
pub(super) fn write(file: &Path, report: &Report) -> Result<()> {
    let mut text = if file.exists() { fs_err::read_to_string(file)? } else { String::new() };
    let has_attaching = text.contains(&begin(ATTACHING));
    if has_attaching && report.has_cni() {
        text = replace(&text, ATTACHING, &attaching(report)?)?;
    }
    // Of a run that measured nothing else there is nothing else to write.
    if report.programs.is_empty() {
        fs_err::write(file, text)?;
        eprintln!("Wrote the figures of {}.", file.display());
        return Ok(());
    }
    let has_figures = text.contains(&begin(FIGURES));
    if has_figures {
        text = replace(&text, FIGURES, &figures(report)?)?;
    }
    if !has_figures || text.contains(&begin(SUMMARY)) {
        text = replace(&text, SUMMARY, &summary(report)?)?;
    }
    fs_err::write(file, text)?;
    eprintln!("Wrote the figures of {}.", file.display());
    Ok(())
}

fn begin(block: &str) -> String {
    format!("<!-- {block}: begin (written by `cargo xtask bench --readme FILE`) -->")
}

fn end(block: &str) -> String {
    format!("<!-- {block}: end -->")
}

fn replace(text: &str, block: &str, content: &str) -> Result<String> {
    let (begin, end) = (begin(block), end(block));
    let new = format!("{begin}\n{content}{end}");
    match (text.find(&begin), text.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            Ok(format!("{}{new}{}", &text[..from], &text[to + end.len()..]))
        }
        (None, None) if text.is_empty() => Ok(format!("{new}\n")),
        (None, None) => Ok(format!("{}\n\n{new}\n", text.trim_end())),
        _ => bail!("only one of two markers is there, or the last comes first: {begin} and {end}"),
    }
}

/// Contenders, without and with a typical node's netfilter rules.
fn summary(report: &Report) -> Result<String> {
    let [same, across] = [("same-node", "same node"), ("across-nodes", "across nodes")];
    let columns = [(TCP, same), (UDP, same), (TCP, across), (UDP, across), (PACKETS, across)];
    let mut text = String::new();
    writeln!(
        text,
        "\nMedians of one run, IPv4, both ends on one CPU: what a round trip takes on the wire, how many times as long it takes \
         with others, measured beside the wire, and what part of its packets a second they carry.\n"
    )?;
    let headings = columns.iter().map(|(column, (_, words))| format!("{}, {words} |", column.heading));
    writeln!(text, "| | {}", headings.collect::<Vec<_>>().join(" "))?;
    writeln!(text, "|---|{}", "--:|".repeat(columns.len()))?;
    for who in report.names() {
        let figures = columns.iter().map(|(column, (topology, _))| {
            column.figure(report, topology, who).unwrap_or_else(|| "–".to_owned())
        });
        let name = if who.0.starts_with("podlane") { format!("**{}**", label(who)) } else { label(who) };
        writeln!(text, "| {name} | {} |", figures.collect::<Vec<_>>().join(" | "))?;
    }
    let met = report.targets.iter().filter(|target| target.met).count();
    writeln!(
        text,
        "\n*wire*: one veth pair, and host to host: the limit. *+ netfilter*: conntrack, masquerading and kube-proxy's rules \
         for 1,000 services. *tc-floor*: programs at tc that redirect and do nothing else. {met} of {} targets are met; [docs/performance.md](docs/performance.md) has all of them, the \
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

/// What the plugins take, and the targets.
fn attaching(report: &Report) -> Result<String> {
    let mut text = format!(
        "\n{}, `{}` at commit {}: {}, {}. Milliseconds.\n\n",
        report.date, report.command, report.commit, report.machine, report.kernel
    );
    writeln!(text, "{}", report.cni_markdown())?;
    text += &targets(&cni::targets(&report.rows))?;
    text.push('\n');
    Ok(text)
}

fn targets(targets: &[Target]) -> Result<String> {
    // Attaching has no floor.
    let floors = targets.iter().any(|target| target.floor.is_some());
    let mut text = "| | target | reached | |".to_owned();
    writeln!(
        text,
        "{}\n|---|--:|--:|---|{}",
        if floors { " tc floor |" } else { "" },
        if floors { "--:|" } else { "" }
    )?;
    for target in targets {
        write!(text, "| {} | {} | {} | {} |", target.name, target.target, target.reached(), target.mark())?;
        writeln!(text, "{}", if floors { format!(" {} |", target.floor()) } else { String::new() })?;
    }
    Ok(text)
}

/// All targets, and what each program costs.
fn figures(report: &Report) -> Result<String> {
    let mut text = format!(
        "\n{}, `{}` at commit {}: {}, {}.\n\n",
        report.date, report.command, report.commit, report.machine, report.kernel
    );
    text += &targets(&report.targets)?;
    writeln!(text, "\nNanoseconds per packet over an empty program (flows, local pods, peer nodes):\n")?;
    writeln!(text, "{}", report.programs_markdown())?;
    writeln!(text, "| program | instructions | bytes of machine code |\n|---|--:|--:|")?;
    for size in &report.programs {
        writeln!(text, "| {} | {} | {} |", size.program, size.instructions, size.jited_bytes)?;
    }
    for topology in ["same-node", "across-nodes"] {
        writeln!(
            text,
            "\nPod to pod, {topology}, IPv4, beside the wire (forwarded frames: beside `tc-floor`), medians:\n\n{}",
            report.network_markdown(topology)
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{begin, end, replace};

    fn block(content: &str) -> String {
        format!("{}\n{content}{}", begin("x"), end("x"))
    }

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let text = format!("# A\n\n{}\n\n## B\n", block("old\n"));
        let new = replace(&text, "x", "new\n").unwrap();
        assert_eq!(new, format!("# A\n\n{}\n\n## B\n", block("new\n")));
        assert_eq!(replace(&new, "x", "new\n").unwrap(), new);
    }

    #[test]
    fn a_file_without_markers_gets_them_at_its_end() {
        assert_eq!(replace("# A\n", "x", "new\n").unwrap(), format!("# A\n\n{}\n", block("new\n")));
        assert_eq!(replace("", "x", "new\n").unwrap(), format!("{}\n", block("new\n")));
    }

    #[test]
    fn half_a_pair_of_markers_is_an_error() {
        assert!(replace(&format!("{}{}", end("x"), begin("x")), "x", "new").is_err());
        assert!(replace(&begin("x"), "x", "new").is_err());
    }
}
