//! `podlane bench`: how fast is the network between two pods, or two nodes? See `docs/bench.md`.

mod client;
mod latency;
mod protocol;
mod report;
mod server;
mod throughput;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::{Args, Subcommand, ValueEnum};

/// Of the server's TCP and UDP.
const PORT: u16 = 5301;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// Answer clients until it is ended
    Server {
        /// The TCP and UDP port; the next one is iperf3's
        #[arg(long, value_name = "PORT", default_value_t = PORT)]
        port: u16,
    },
    /// Measure against a server: round trips, packets per second, throughput
    Client {
        /// The server's IP address
        address: IpAddr,

        /// The server's port
        #[arg(long, value_name = "PORT", default_value_t = PORT)]
        port: u16,

        /// How long each measure takes
        #[arg(long, value_name = "SECONDS", default_value_t = 3)]
        seconds: u64,

        /// Don't use iperf3, though it is on both sides
        #[arg(long)]
        no_iperf3: bool,

        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// One object, docs/bench.md
    Json,
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    match &args.side {
        Side::Server { port } => server::run(*port)?,
        Side::Client { address, port, seconds, no_iperf3, output } => {
            ensure!((1..=3600).contains(seconds), "--seconds: {seconds} is out of range: 1 to 3600");
            let server = client::Server { address: *address, port: *port };
            let rows = client::measure(server, Duration::from_secs(*seconds), !no_iperf3)?;
            match output {
                Output::Json => println!("{:#}", report::json(server, *seconds, &rows)),
                Output::Text => println!("{}", report::table(&rows)),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
