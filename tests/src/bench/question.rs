//! What is asked of a pair of ends, and the answer, which a process of its own gives: where its code lies in memory (ASLR)
//! makes a difference, and not the same for every pair.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::beside::Beside;
use super::{bulk, connections, packets, pin, ping_pong};
use crate::contender::Pair;

/// What is to be measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Question {
    /// Between whom.
    pub pair: Pair,
    /// In turns with whom.
    pub beside: Pair,
    /// By IPv6, or by IPv4.
    pub ipv6: bool,
    /// What.
    pub what: What,
    /// In how many turns.
    pub turns: usize,
}

/// What can be measured of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Round trips of a small message, by UDP or by TCP.
    RoundTrips {
        /// By UDP.
        udp: bool,
    },
    /// UDP packets a second.
    Packets {
        /// Bytes of each, from the IP header on.
        bytes: usize,
    },
    /// TCP connections a second.
    Connections,
    /// A TCP transfer.
    Transfer {
        /// By so many connections at once.
        streams: u32,
    },
}

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// Metrics as `bench.json` has them, and their values.
    pub figures: BTreeMap<String, f64>,
    /// The time that the same took beside, in any unit: how slow the machine was.
    pub slowness: f64,
}

impl Question {
    /// Measures, mostly on the calling thread, which is confined to one CPU.
    ///
    /// # Errors
    /// Where packets do not arrive.
    pub fn answer(&self) -> Result<Answer> {
        let Self { pair, beside, ipv6, what, turns } = self;
        let pairs = [pair, beside];
        if !matches!(what, What::Transfer { .. }) {
            pin::to_one_cpu()?;
        }
        let (name, measured, figures) = match *what {
            What::RoundTrips { udp } => {
                let (measured, p99) =
                    ping_pong::in_turns(pairs, *ipv6, udp, *turns).context("a round trip")?;
                let name = if udp { "udp-rtt" } else { "tcp-rtt" }.to_owned();
                let figures = vec![
                    (format!("{name}-p50"), measured.own),
                    (format!("{name}-p99"), p99),
                    (format!("{name}-overhead"), measured.longer()),
                ];
                (name, measured, figures)
            }
            What::Packets { bytes } => {
                let measured = packets::in_turns(pairs, *ipv6, bytes, *turns)?;
                let name = format!("udp-{bytes}");
                let figures = vec![
                    (format!("{name}-pps"), measured.own),
                    (format!("{name}-overhead"), measured.nanoseconds_more()),
                ];
                (name, measured, figures)
            }
            What::Connections => {
                let measured = connections::in_turns(pairs, *ipv6, *turns)?;
                let name = "tcp-connections".to_owned();
                (name.clone(), measured, vec![(name, measured.own)])
            }
            What::Transfer { streams } => {
                let (measured, cpu) = bulk::in_turns(pairs, *ipv6, streams, *turns)?;
                let name = format!("tcp-{streams}");
                let figures = vec![
                    (format!("{name}-throughput"), measured.own),
                    (format!("{name}-cpu"), cpu.busy),
                    (format!("{name}-softirq"), cpu.softirq),
                ];
                (name, measured, figures)
            }
        };
        let Beside { other, ratio, .. } = measured;
        let figures = figures.into_iter().chain([(format!("{name}-relative"), ratio)]).collect();
        let slowness = if matches!(what, What::RoundTrips { .. }) { other } else { 1.0 / other };
        Ok(Answer { figures, slowness })
    }
}
