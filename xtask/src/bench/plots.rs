//! Bars, one file for each figure: SVG, which needs no fonts to be drawn.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Report, label};

/// Metric, title, decimals.
const PLOTS: [(&str, &str, usize); 6] = [
    ("tcp-rtt-p50", "TCP round trip, median, µs (less is better)", 1),
    ("udp-rtt-p50", "UDP round trip, median, µs (less is better)", 1),
    ("udp-64-pps", "UDP packets of 64 bytes a second, one CPU (more is better)", 0),
    ("udp-64-overhead", "Overhead over the wire, ns per UDP packet (less is better)", 0),
    ("tcp-connections", "TCP connections a second, one CPU (more is better)", 0),
    ("tcp-1-throughput", "TCP transfer, one stream, Gbit/s (more is better)", 1),
];

const WIDTH: i32 = 820;
const LABELS: i32 = 170;
const VALUES: i32 = 90;
const BAR: i32 = 22;
const TOP: i32 = 44;

const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const OTHERS: RGBColor = RGBColor(0xb8, 0xc2, 0xcc);
const LIMIT: RGBColor = RGBColor(0x6b, 0x77, 0x83);

/// Draws every figure that the report has.
pub(super) fn draw(report: &Report, folder: &Path) -> Result<()> {
    for (metric, title, decimals) in PLOTS {
        for (topology, words) in [("same-node", "same node"), ("across-nodes", "across nodes")] {
            let bars: Vec<(String, f64)> = report
                .names()
                .filter_map(|who| Some((label(who), report.network(topology, who, false, metric)?)))
                .collect();
            if !bars.is_empty() {
                let file = folder.join(format!("{metric}-{topology}.svg"));
                // plotters' errors borrow the drawing.
                bar_chart(&file, &format!("{title}: {words}"), &bars, decimals)
                    .map_err(|error| anyhow!("{}: {error}", file.display()))?;
            }
        }
    }
    Ok(())
}

fn bar_chart(
    file: &Path,
    title: &str,
    bars: &[(String, f64)],
    decimals: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let height = TOP + BAR * i32::try_from(bars.len())? + 12;
    let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
    let area = SVGBackend::new(file, size).into_drawing_area();
    area.fill(&WHITE)?;
    let style = |size: u32| ("sans-serif", size).into_text_style(&area).color(&BLACK);
    area.draw(&Text::new(title.to_owned(), (12, 12), style(17)))?;
    let largest = bars.iter().map(|bar| bar.1).fold(f64::MIN_POSITIVE, f64::max);
    for (index, (name, value)) in bars.iter().enumerate() {
        let top = TOP + BAR * i32::try_from(index)?;
        let colour = match name.as_str() {
            name if name.starts_with("podlane") => OURS,
            "wire" => LIMIT,
            _ => OTHERS,
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most the width of the plot")]
        let length = (value.max(0.0) / largest * f64::from(WIDTH - LABELS - VALUES)) as i32;
        area.draw(&Rectangle::new([(LABELS, top + 3), (LABELS + length, top + BAR - 3)], colour.filled()))?;
        let middle = top + BAR / 2;
        let right = style(14).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(name.clone(), (LABELS - 8, middle), right))?;
        let left = style(14).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(format!("{value:.decimals$}"), (LABELS + length + 6, middle), left))?;
    }
    area.present()?;
    Ok(())
}
