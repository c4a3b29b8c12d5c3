//! The laws of the object layer, each checked on threads and in simulations. A failure names its seed; `CHARM4RS_SEED=n` replays it.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod allreduces;
mod calls;
mod collections;
mod copies;
mod destroyed;
mod drops;
mod failures;
mod futures;
mod generics;
mod jobs;
mod joining;
mod large;
mod locations;
mod outside;
mod payloads;
mod phases;
mod put_windows;
mod receives;
mod reduced_calls;
mod reductions;
mod sections;
mod traits;

use std::future::Future;

use charm4rs::testing::{SimOptions, simulate, threads};
use charm4rs::{Job, MainResult};
use charm4rs_transport::seed;

/// The number of simulations of a law, by default.
const SEEDS: u64 = 24;

/// Runs a job on threads and in simulations: it must end with status 0.
#[track_caller]
fn law<F: Future<Output: MainResult> + 'static>(job: impl Fn(Job) -> F) {
    on_threads(&job);
    simulated(SEEDS, &job);
}

#[track_caller]
fn on_threads<F: Future<Output: MainResult> + 'static>(job: impl Fn(Job) -> F) {
    for pes in [1, 2, 4] {
        match threads(pes, &job) {
            Ok(0) => {}
            end => panic!("on {pes} threads: {end:?}"),
        }
    }
}

/// Small jobs and larger ones, with one PE per process, some, or all.
fn shapes(seeds: u64) -> impl Iterator<Item = SimOptions> {
    let seeds = seed::from_environment().map_or(0..seeds, |seed| seed..seed + 1);
    seeds.map(|seed| {
        let pes = [1, 2, 3, 4, 7, 24][usize::try_from(seed % 6).unwrap()];
        let ppn = [1, 2, pes][usize::try_from(seed / 6 % 3).unwrap()];
        SimOptions::new(pes, seed).ppn(ppn)
    })
}

#[track_caller]
fn simulated<F: Future<Output: MainResult> + 'static>(seeds: u64, job: impl Fn(Job) -> F) {
    for options in shapes(seeds) {
        assert_eq!(simulate(&options, &job).unwrap(), 0, "{options:?}");
    }
}
