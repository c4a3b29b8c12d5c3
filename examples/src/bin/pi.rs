//! Pi by throwing darts at a square, and counting those that hit the circle in it.
//!
//! `cargo charmrun +p4 pi --darts 100000000`
//!
//! The workers share nothing, and communicate once, in a reduction. The position of a dart depends only on its number, so any number of workers on
//! any number of PEs counts the same hits.

use std::f64::consts::PI;

use charm4rs::prelude::*;

/// Estimates pi by throwing darts.
#[derive(clap::Parser)]
struct Options {
    /// The number of darts.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 53))]
    darts: u64,
    /// The number of workers. Default: four for each PE.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    workers: Option<u64>,
}

struct Worker;

#[chare(index = u64)]
impl Worker {
    #[init]
    fn new() -> Self {
        Self
    }

    /// Throws this worker's share of the darts; returns the number of hits.
    #[entry]
    fn throw(&mut self, cx: &mut Cx<Self>, darts: u64, workers: u64) -> u64 {
        let first = |worker: u64| (u128::from(darts) * u128::from(worker) / u128::from(workers)) as u64;
        count_hits(first(cx.index())..first(cx.index() + 1))
    }
}

/// The number of these darts that hit.
fn count_hits(darts: std::ops::Range<u64>) -> u64 {
    let hit = |dart: &u64| {
        let (x, y) = (coordinate(2 * dart), coordinate(2 * dart + 1));
        x * x + y * y < 1.0
    };
    darts.filter(hit).count() as u64
}

/// The `n`th of a sequence of numbers between 0 and 1 (SplitMix64; Steele, Lea, Flood: Fast splittable pseudorandom
/// number generators, 2014).
fn coordinate(n: u64) -> f64 {
    let mut z = (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[charm4rs::main]
async fn main(job: Job, options: Options) {
    let darts = options.darts;
    let count = options.workers.unwrap_or(4 * u64::from(job.pes()));
    let workers = job.array::<Worker>(count, ());
    let began = job.now();
    let hits = workers.all().throw(darts, count).reduce(reduce::sum).await;
    let time = job.now() - began;
    let pi = 4.0 * hits as f64 / darts as f64;
    println!("{hits} of {darts} darts hit: pi is about {pi:.6}");
    println!("{count} workers took {time:.1?}");
    // The standard deviation of the estimate is below 1.65 / sqrt(darts).
    if (pi - PI).abs() > 10.0 / (darts as f64).sqrt() {
        return job.abort(&format!("pi is {PI:.6}"));
    }
    if darts <= 10_000_000 && hits != count_hits(0..darts) {
        job.abort("one worker alone counts other hits");
    }
}
