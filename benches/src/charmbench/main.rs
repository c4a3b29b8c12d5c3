//! charmbench: latency, bandwidth and rate between PEs, layer by layer, and of operations in which all take part, beside
//! the limits of the machine, measured in the same run.
//!
//! `cargo charmrun +p2 charmbench latency`, under any transport. PE 0 measures, and the last PE answers. The layers below the
//! object model come first ([`below`]), on the same pinned threads and over the same ports that the object model has afterwards
//! ([`mod@entry`]). Wherever a limit applies ([`limits`]) it is measured in turn with what it limits, since machines drift.

mod below;
mod child;
mod collectives;
mod compare;
mod entry;
mod lanes;
mod limits;
mod mapping;
mod messages;
mod peers;
mod place;
mod plot;
mod progress;
mod put_window;
mod python;
mod run;
mod sockets;
mod startup;
mod stencil;
mod table;

use std::path::PathBuf;

use charm4rs::prelude::*;
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser, Clone)]
#[command(about, version)]
struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// The number of measurements of each figure; the median counts.
    #[arg(long, default_value_t = 9, global = true)]
    runs: usize,
    /// Measure only this layer.
    #[arg(long, global = true)]
    layer: Option<Layer>,
    /// Measure only these sizes, in bytes, or with K, M or G behind them: 64K,1M.
    #[arg(long, global = true, value_delimiter = ',', value_parser = table::parse_size)]
    size: Vec<usize>,
    /// Also write all figures to this file, as JSON: for `compare` and `plot`.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write all figures to this file, as comma-separated values.
    #[arg(long, global = true, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the figures that depend on a size, and their limits: an HTML page, or an SVG if its name ends in .svg.
    #[arg(long, global = true, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Subcommand, Clone, PartialEq)]
enum What {
    /// One-way latency, by size.
    Latency,
    /// Bandwidth, by size: the sender writes all of the data, the receiver reads it.
    Bandwidth,
    /// One-sided puts into a window: latency and bandwidth, by size.
    Put,
    /// Puts into a put window of another chare, by size.
    PutWindow,
    /// Small messages a second.
    Rate,
    /// Single operations of the object layer: calls, replies, creation, broadcast and reduction.
    Operations,
    /// Members of all PEs wait for one another.
    Barrier,
    /// A payload to all PEs, by size.
    Broadcast,
    /// Sums over all PEs whose result all of them get, by size.
    Allreduce,
    /// All PEs send to all others, by size.
    Alltoall,
    /// Bandwidth of two PEs that send to each other at once, by size.
    Bibw,
    /// The fraction of an exchange that is hidden behind work, by size.
    Overlap,
    /// A call to a PE that sleeps.
    IdleWake,
    /// A grid in strips that send their edges to one another, compared with the work alone, by size of a row.
    Stencil,
    /// The start of programs, from their execution to their main, and to their end.
    Startup,
    /// For a program that `startup` starts: print the time.
    #[command(hide = true)]
    Started,
    /// The number of messages of operations of all PEs, counted in simulations of up to 1,024 PEs.
    Messages {
        /// The numbers of PEs to simulate.
        #[arg(default_values_t = [2, 4, 8, 16, 32, 64, 256, 1024])]
        pes: Vec<u32>,
    },
    /// The limits of this machine.
    Limits,
    /// All of these.
    All,
    /// Other systems on this machine, in the same run: Open MPI, mpi4py, UCX, libfabric, if they are installed.
    Peers(peers::Peers),
    /// Whether a second run is slower than a first, apart from noise. Fails if it is.
    Compare(compare::Compare),
    /// Draw one run or several.
    Plot(plot::Plot),
    /// Operations of Python's chares, in jobs of their own, under one interpreter or two.
    Python(python::Python),
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// The backend, through the seam.
    Raw,
    /// A PE's port: the choice of the backend, protocols, flow control.
    Port,
    /// Calls of entry methods.
    Entry,
}

impl Options {
    fn wants(&self, what: What) -> bool {
        matches!(self.what, None | Some(What::All)) || self.what.as_ref() == Some(&what)
    }

    fn wants_layer(&self, layer: Layer) -> bool {
        self.layer.is_none_or(|only| only == layer)
    }

    /// The requested sizes, or the usual ones.
    fn sizes<'a>(&'a self, usual: &'a [usize]) -> &'a [usize] {
        if self.size.is_empty() { usual } else { &self.size }
    }

    fn runs(&self) -> usize {
        self.runs.max(1)
    }
}

async fn program(job: Job, options: Options) -> Result<(), String> {
    match &options.what {
        Some(What::Python(what)) => return python::run(&job, what).await,
        Some(What::Peers(what)) => return peers::run(&job, what).await,
        Some(What::Compare(what)) => return compare::run(what),
        Some(What::Plot(what)) => return plot::run(what),
        Some(What::Messages { pes }) => return messages::run(pes),
        Some(What::Started) => {
            startup::tell();
            return Ok(());
        }
        _ => {}
    }
    if job.pes() == 1 && matches!(options.layer, Some(Layer::Raw | Layer::Port)) {
        return Err("the layers raw and port lie between two PEs: cargo charmrun +p2 charmbench".into());
    }
    if options.wants(What::Limits) {
        limits::report(options.runs());
    }
    if options.wants_layer(Layer::Entry) {
        entry_layer(&job, &options).await;
    }
    // Not with `all`: other programs may not exist on this machine.
    if options.what == Some(What::Startup) {
        startup::run(&job, options.runs())?;
    }
    let layout = job.layout();
    let transport = place::Place::get().map(|place| place.transport);
    let run = run::Run::of(job.pes(), layout.processes(), layout.hosts(), transport);
    options.csv.iter().try_for_each(|path| run.write_csv(path))?;
    options.json.iter().try_for_each(|path| run.write_json(path))?;
    options.plot.iter().try_for_each(|path| plot::write(path, &[("this run".to_owned(), &run)]))
}

async fn entry_layer(job: &Job, options: &Options) {
    let bench = entry::Bench::new(*job, options.clone()).await;
    if options.wants(What::Latency) {
        bench.latency().await;
    }
    if options.wants(What::Rate) {
        bench.rate().await;
    }
    if options.wants(What::Operations) {
        bench.operations().await;
    }
    if options.wants(What::Bandwidth) {
        bench.bandwidth().await;
    }
    collectives::Collectives::new(*job, options.clone()).await.all().await;
    if options.wants(What::PutWindow) {
        put_window::run(job, options).await;
    }
    if options.wants(What::Stencil) {
        stencil::run(job, options).await;
    }
}

fn main() {
    charm4rs::main_after(below::measure, program)
}
