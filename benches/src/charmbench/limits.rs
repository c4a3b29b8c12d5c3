//! The limits of this machine, measured in the same run as everything else, by two threads on the CPUs of the two PEs.
//!
//! *Ping-pong*: a message of one or two cache lines, there and back; the receiver polls the last line and reads the first. *Reader of shared memory*:
//! two buffers in `MAP_SHARED` memory change hands. The writer fills one (every byte) while the reader reads the other (a load in each 64 bytes), so
//! that every line comes from the core that has just written it; that is the minimal cost of a payload that is handed over, as the `bandwidth` of a
//! layer counts it. *Sockets*: see [`sockets`]. *memcpy*: one core. The limits do not use the engine.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use crate::mapping::Mapping;
use crate::place::{Place, on_two};
use crate::sockets::{self, Kind};
use crate::table::{Figure, Table};

#[repr(align(128))]
#[derive(Default)]
struct Line([AtomicU64; 8]);

/// Two threads on two cores.
#[derive(Default)]
struct Pair {
    there: [Line; 2],
    back: [Line; 2],
}

pub(crate) fn report(runs: usize) {
    let figure = |measure: &dyn Fn() -> f64| Figure::of((0..runs).map(|_| measure()).collect());
    let table = Table::new("limits of this machine, one way", "ns");
    for lines in [1, 2] {
        table.row(&format!("cache line ping-pong, {lines} line(s)"), &figure(&|| ping_pong(lines)));
    }
    for (name, kind) in [("TCP", Kind::Tcp), ("UNIX", Kind::Unix)] {
        table.row(&format!("raw {name} socket, 8 B"), &figure(&|| or_none(sockets::latency(kind, 8))));
    }
    let table = Table::new("reader of shared memory, written and read", "GB/s");
    for size in [64 << 10, 1 << 20, 16 << 20, 64 << 20] {
        table.sized(size, &figure(&|| shared(size)).speed(size), None);
    }
    for (name, kind) in [("TCP", Kind::Tcp), ("UNIX", Kind::Unix)] {
        let table = Table::new(format!("raw {name} socket, written and read"), "GB/s");
        for size in [64 << 10, 1 << 20, 16 << 20] {
            table.sized(size, &figure(&|| or_none(sockets::stream(kind, size))).speed(size), None);
        }
    }
    let table = Table::new("memcpy, one core", "GB/s");
    for size in [4 << 10, 64 << 10, 1 << 20, 16 << 20] {
        table.sized(size, &figure(&|| copy(size)).speed(size), None);
    }
}

/// A limit that could not be measured is NaN.
fn or_none(measured: std::io::Result<f64>) -> f64 {
    measured.unwrap_or_else(|error| {
        eprintln!("charmbench: a limit could not be measured: {error}");
        f64::NAN
    })
}

/// The limit of a layer between the two PEs.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// Shared memory.
    Memory,
    /// The kernel's TCP.
    Tcp,
}

impl Limit {
    /// The limit of the transport between the two PEs. `None` if they share a CPU: then figures show only how they share it.
    pub(crate) fn of_this_job() -> Option<Self> {
        let Place { transport, cpus: [here, there] } = Place::get()?;
        match transport {
            _ if here == there => None,
            "local" | "shm" => Some(Self::Memory),
            "tcp" => Some(Self::Tcp),
            _ => None,
        }
    }

    /// Time that a message of `len` bytes takes one way, in nanoseconds.
    pub(crate) fn latency(self, len: usize) -> f64 {
        match self {
            Self::Memory => ping_pong(2),
            Self::Tcp => or_none(sockets::latency(Kind::Tcp, len)),
        }
    }

    pub(crate) fn latency_name(self) -> &'static str {
        match self {
            Self::Memory => "two-line ping-pong",
            Self::Tcp => "raw TCP socket, same size",
        }
    }

    /// Time of one of a stream of messages of `len` bytes, in nanoseconds.
    pub(crate) fn stream(self, len: usize) -> f64 {
        match self {
            Self::Memory => shared(len),
            Self::Tcp => or_none(sockets::stream(Kind::Tcp, len)),
        }
    }

    pub(crate) fn stream_name(self) -> &'static str {
        match self {
            Self::Memory => "reader of shared memory",
            Self::Tcp => "raw TCP socket",
        }
    }
}

/// Writes every byte; two consecutive rounds write different bytes.
pub(crate) fn fill(bytes: &mut [u8], round: usize) {
    bytes.fill(round.to_le_bytes()[0]);
    black_box(bytes);
}

/// Reads a byte of every line.
pub(crate) fn read_lines(bytes: &[u8]) {
    black_box(bytes.chunks(64).map(|line| u64::from(line[0])).sum::<u64>());
}

/// One-way time of a message of `lines` cache lines: the receiver polls the last line and also reads the first.
fn ping_pong(lines: usize) -> f64 {
    const ROUNDS: u64 = 20_000;
    let pair = Pair::default();
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
    on_two(
        || {
            let mut start = Instant::now();
            for value in 0..=ROUNDS {
                // The first value waits for the other thread to begin.
                if value == 1 {
                    start = Instant::now();
                }
                give(&pair.there, value + 1);
                take(&pair.back, value + 1);
            }
            start.elapsed().as_nanos() as f64 / (2 * ROUNDS) as f64
        },
        || {
            for value in 0..=ROUNDS {
                take(&pair.there, value + 1);
                give(&pair.back, value + 1);
            }
        },
    )
}

/// Time for a reader to get `len` bytes that another core has just written to shared memory.
fn shared(len: usize) -> f64 {
    let rounds = ((128 << 20) / len).clamp(4, 4_000);
    let (full, filled) = sync_channel::<Mapping>(2);
    let (empty, emptied) = sync_channel(2);
    for _ in 0..2 {
        match Mapping::new(len) {
            Ok(mut buffer) => {
                fill(&mut buffer, 1); // so that its pages exist
                let _ = empty.send(buffer);
            }
            Err(error) => return or_none(Err(error.into())),
        }
    }
    on_two(
        move || {
            pass(rounds.min(4), &filled, &empty, |buffer, _| read_lines(buffer));
            let start = Instant::now();
            pass(rounds, &filled, &empty, |buffer, _| read_lines(buffer));
            start.elapsed().as_nanos() as f64 / rounds as f64
        },
        move || pass(rounds.min(4) + rounds, &emptied, &full, fill_mapping),
    )
}

fn fill_mapping(buffer: &mut Mapping, round: usize) {
    fill(buffer, round);
}

/// Takes buffers, polling, calls `work` with each, and passes them on.
fn pass(count: usize, from: &Receiver<Mapping>, to: &SyncSender<Mapping>, mut work: impl FnMut(&mut Mapping, usize)) {
    for round in 0..count {
        let mut buffer = loop {
            match from.try_recv() {
                Ok(buffer) => break buffer,
                Err(_) => spin_loop(),
            }
        };
        work(&mut buffer, round);
        // At the end the other side may be gone.
        let _ = to.try_send(buffer);
    }
}

/// Time to copy `size` bytes.
fn copy(size: usize) -> f64 {
    let from = vec![1u8; size];
    let mut to = vec![0u8; size];
    let rounds = ((256 << 20) / size).max(4);
    let start = Instant::now();
    for _ in 0..rounds {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    start.elapsed().as_nanos() as f64 / rounds as f64
}
