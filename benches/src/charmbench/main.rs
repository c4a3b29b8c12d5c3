//! charmbench: latency, bandwidth and rate between PEs, beside the limits of the machine, measured in the same run.
//!
//! `cargo charmrun +p2 charmbench latency`, under any transport. PE 0 measures; the others answer.

#![forbid(unsafe_code)]

mod entry;
mod limits;
mod table;

use charm4rs::prelude::*;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, version)]
struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// How often each figure is measured; the median counts.
    #[arg(long, default_value_t = 9, global = true)]
    runs: usize,
}

#[derive(Subcommand, Clone, Copy)]
enum What {
    /// One-way latency of calls, by size.
    Latency,
    /// Bandwidth of payloads, by size.
    Bandwidth,
    /// Small calls a second.
    Rate,
    /// Single operations of the object layer: calls, replies, creation, broadcast and reduction.
    Operations,
    /// What this machine can do at all.
    Limits,
    /// All of these.
    All,
}

#[charm4rs::main]
async fn main(job: Job, args: Args) -> Result<(), String> {
    let options = Options::try_parse_from(args).map_err(|error| error.to_string())?;
    let runs = options.runs.max(1);
    let what = options.what.unwrap_or(What::All);
    let all = matches!(what, What::All);
    if all || matches!(what, What::Limits) {
        limits::report(runs);
    }
    let bench = entry::Bench::new(job, runs).await;
    if all || matches!(what, What::Latency) {
        bench.latency().await;
    }
    if all || matches!(what, What::Rate) {
        bench.rate().await;
    }
    if all || matches!(what, What::Operations) {
        bench.operations().await;
    }
    if all || matches!(what, What::Bandwidth) {
        bench.bandwidth().await;
    }
    Ok(())
}
