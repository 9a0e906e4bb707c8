//! `podlane status`: how the agent is.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use comfy_table::{Table, presets::NOTHING};
use serde_json::Value;

use super::Places;
use crate::api::{SOCKET_NAME, client::Client};

/// Exit status where no agent answers.
const NO_AGENT: u8 = 2;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    places: Places,

    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// The agent's answer, docs/api.md
    Json,
}

pub(super) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let socket = args.places.run_dir.join(SOCKET_NAME);
    let status = match Client::new(&socket).status() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("podlane: no agent answers at {}: {error}", socket.display());
            return Ok(ExitCode::from(NO_AGENT));
        }
    };
    match args.output {
        Output::Json => println!("{status:#}"),
        Output::Text => print(&status),
    }
    let healthy = status["healthy"].as_bool() == Some(true);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(status: &Value) {
    let healthy = if status["healthy"].as_bool() == Some(true) { "healthy" } else { "NOT HEALTHY" };
    let mut table = plain();
    table.add_row(["Node".to_owned(), format!("{} ({healthy})", text(&status["node"]))]);
    table.add_row([
        "Agent".to_owned(),
        format!("{}, attached by {}", text(&status["version"]), text(&status["attach"])),
    ]);
    table.add_row(["Kernel".to_owned(), kernel(&status["features"])]);
    table.add_row(["Uplinks".to_owned(), list(&status["uplinks"])]);
    table.add_row(["Overlay".to_owned(), overlay(&status["tunnel"])]);
    table.add_row(["XDP".to_owned(), xdp(&status["xdp"])]);
    table.add_row(["Pod CIDRs".to_owned(), list(&status["podCIDRs"])]);
    table.add_row(["Pods".to_owned(), format!("{}, MTU {}", status["pods"], status["mtu"])]);
    println!("{table}");

    if let Some(peers) = status["peers"].as_array().filter(|peers| !peers.is_empty()) {
        let mut table = plain();
        table.set_header(["PEER", "STATE", "POD CIDRS", "NEXT HOP", "UPLINK"]);
        for peer in peers {
            table.add_row([
                text(&peer["name"]),
                text(&peer["state"]),
                list(&peer["podCIDRs"]),
                list(&peer["nextHops"]),
                text(&peer["uplink"]),
            ]);
        }
        println!("\n{table}");
    }
    if let Some(counters) = status["counters"].as_array().filter(|counters| !counters.is_empty()) {
        let mut table = plain();
        table.set_header(["HOOK", "VERDICT", "PACKETS", "BYTES"]);
        for counter in counters {
            table.add_row([
                text(&counter["hook"]),
                text(&counter["verdict"]),
                text(&counter["packets"]),
                text(&counter["bytes"]),
            ]);
        }
        println!("\n{table}");
    }
    for (kind, list) in [("PROBLEM", "problems"), ("WARNING", "warnings")] {
        for what in status[list].as_array().into_iter().flatten() {
            println!("\n{kind}: {}", text(what));
        }
    }
    if let Some(repairs) = status["repairs"].as_array().filter(|repairs| !repairs.is_empty()) {
        let mut table = plain();
        table.set_header(["REPAIRED", "TIMES", "WHAT", "DONE"]);
        for repair in repairs {
            table.add_row([
                text(&repair["time"]),
                text(&repair["times"]),
                text(&repair["what"]),
                text(&repair["done"]),
            ]);
        }
        println!("\n{table}");
    }
}

fn kernel(features: &Value) -> String {
    let has = |key: &str, name: &str| {
        let no = if features[key].as_bool() == Some(true) { "" } else { "no " };
        format!("{no}{name}")
    };
    format!(
        "{}: {}, {}, {}, {}, {}",
        text(&features["kernel"]),
        has("tcx", "tcx"),
        has("xdp", "XDP"),
        has("redirectPeerScrubs", "scrubbing redirect_peer"),
        has("tunnelWrap", "wrapping for the overlay"),
        has("tunnelUnwrapMixed", "unwrapping of the other family")
    )
}

fn overlay(tunnel: &Value) -> String {
    let Value::String(device) = &tunnel["device"] else {
        return format!("{}: not in use", text(&tunnel["mode"]));
    };
    let [mode, vni, port, mtu] = ["mode", "vni", "port", "mtu"].map(|key| text(&tunnel[key]));
    format!("{mode}: {device}, VNI {vni}, UDP port {port}, MTU {mtu}")
}

fn xdp(xdp: &Value) -> String {
    match text(&xdp["mode"]).as_str() {
        "off" => "off".to_owned(),
        mode => format!("{mode}, at {}", list(&xdp["uplinks"])),
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> String {
    let items: Vec<String> = value.as_array().into_iter().flatten().map(text).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}
