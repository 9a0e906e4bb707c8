//! What was measured, for people and for programs.

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde_json::{Value, json};

use super::client::Server;

/// One figure.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// As in `cargo xtask bench`'s rows, where they have it.
    pub(super) metric: &'static str,
    pub(super) unit: &'static str,
    pub(super) value: f64,
    /// Who measured it: podlane or iperf3.
    pub(super) tool: &'static str,
}

pub(super) fn json(server: Server, seconds: u64, rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| json!({ "metric": row.metric, "unit": row.unit, "value": row.value, "tool": row.tool }))
        .collect();
    json!({
        "server": server.address,
        "port": server.port,
        "seconds": seconds,
        "version": env!("CARGO_PKG_VERSION"),
        "rows": rows,
    })
}

pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["METRIC", "VALUE", "UNIT", "BY"]);
    for row in rows {
        let digits = match row.value {
            value if value >= 1000.0 => 0,
            value if value >= 10.0 => 1,
            _ => 2,
        };
        table.add_row([row.metric, &format!("{:.digits$}", row.value), row.unit, row.tool]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
