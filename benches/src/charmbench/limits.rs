//! What this machine can do at all, measured in the same run as everything else.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::table::{self, Figure};

#[repr(align(128))]
#[derive(Default)]
struct Line([AtomicU64; 8]);

/// Two threads on two cores.
struct Pair {
    there: [Line; 2],
    back: [Line; 2],
}

pub(crate) fn report(runs: usize) {
    table::head("limits of this machine", "ns");
    for lines in [1, 2] {
        let name = format!("cache line ping-pong, {lines} line(s), one way");
        table::row(&name, Figure::of((0..runs).map(|_| ping_pong(lines)).collect()));
    }
    table::head("memcpy, one core", "GB/s");
    for size in [4 << 10, 64 << 10, 1 << 20, 16 << 20] {
        table::row(&table::size(size), Figure::of((0..runs).map(|_| copy(size)).collect()));
    }
}

/// One-way time of a message of `lines` cache lines: the receiver polls the last and reads the first too.
fn ping_pong(lines: usize) -> f64 {
    const ROUNDS: u64 = 50_000;
    let pair = Arc::new(Pair { there: Default::default(), back: Default::default() });
    let give = |to: &[Line; 2], value: u64| {
        to[0].0[0].store(value, Ordering::Relaxed);
        to[lines - 1].0[1].store(value, Ordering::Release);
    };
    let take = |from: &[Line; 2], value: u64| {
        while from[lines - 1].0[1].load(Ordering::Acquire) != value {
            spin_loop();
        }
        assert_eq!(from[0].0[0].load(Ordering::Relaxed), value);
    };
    let mut elapsed = 0.0;
    std::thread::scope(|scope| {
        let other = pair.clone();
        scope.spawn(move || {
            pin(1);
            for value in 1..=ROUNDS {
                take(&other.there, value);
                give(&other.back, value);
            }
        });
        let measure = scope.spawn(|| {
            pin(0);
            let start = Instant::now();
            for value in 1..=ROUNDS {
                give(&pair.there, value);
                take(&pair.back, value);
            }
            start.elapsed().as_nanos() as f64 / (2 * ROUNDS) as f64
        });
        elapsed = measure.join().unwrap_or(f64::NAN);
    });
    elapsed
}

fn copy(size: usize) -> f64 {
    let from = vec![1u8; size];
    let mut to = vec![0u8; size];
    let rounds = ((256 << 20) / size).max(4);
    let start = Instant::now();
    for _ in 0..rounds {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    (size * rounds) as f64 / start.elapsed().as_nanos() as f64
}

/// Pins this thread, if the machine has the core.
fn pin(core: usize) {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(core);
    // Unpinned, the figure is only noisier.
    let _ = rustix::thread::sched_setaffinity(None, &cpus);
}
