//! A token goes around a ring of chares, one call after another: the cost of a call.
//!
//! `cargo charmrun +p4 ring --hops 1000000`
//!
//! The ring is a group, one element per PE, so that every hop goes to another PE; with `--elements` it is an array, where most hops stay on their PE.
//! The token may carry bytes, in a payload that is sent without a copy where possible.

use charm4rs::prelude::*;

/// Sends a token around a ring of chares.
#[derive(clap::Parser)]
struct Options {
    /// Chares in an array. Without it: a group.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    elements: Option<u64>,
    /// The number of hops.
    #[arg(long, default_value_t = 100_000)]
    hops: u64,
    /// Bytes that it carries.
    #[arg(long, default_value_t = 0)]
    bytes: usize,
}

struct Station {
    /// The size of the ring.
    count: u64,
    visits: u64,
}

#[chare(index = u64)]
impl Station {
    #[init]
    fn new(count: u64) -> Self {
        Self { count, visits: 0 }
    }

    /// The token is here, and has `hops` more hops to go.
    #[entry]
    fn pass(&mut self, cx: &mut Cx<Self>, hops: u64, load: Payload<u8>, end: Promise<u64>) {
        self.visits += 1;
        match hops.checked_sub(1) {
            Some(hops) => {
                cx.collection().at((cx.index() + 1) % self.count).pass(hops, load, end);
            }
            None => end.send(cx.index()),
        }
    }

    #[entry]
    fn visits(&mut self) -> u64 {
        self.visits
    }
}

#[charm4rs::main]
async fn main(job: Job, options: Options) {
    let Options { elements, hops, bytes } = options;
    let count = elements.unwrap_or(job.pes().into());
    let ring = match elements {
        Some(count) => job.array::<Station>(count, count),
        None => job.group::<Station>(count).into(),
    };
    ring.created().await;
    let (end, last) = job.promise();
    let began = job.now();
    ring.at(0).pass(hops, Payload::zeroed(bytes), end);
    let last = last.await;
    let time = job.now() - began;
    println!("{hops} hops of {bytes} bytes around {count} chares on {} PEs", job.pes());
    println!("time per hop: {:.0} ns", time.as_secs_f64() * 1e9 / hops.max(1) as f64);
    let visits = ring.all().visits().await;
    let expected = |i: u64| (hops + 1) / count + u64::from(i < (hops + 1) % count);
    if last != hops % count || !visits.iter().copied().eq((0..count).map(expected)) {
        job.abort(&format!("the token ended at {last} after these visits: {visits:?}"));
    }
    println!("every chare was visited equally often");
}
