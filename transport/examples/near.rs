//! How fast near PEs are, against what the machine can do: one-way latency and message rate between two pinned threads,
//! and the ping-pong of bare cache lines in the same run. Figures are minima and medians of short runs.
#![expect(clippy::print_stdout, reason = "prints a table")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use charm4rs_transport::memory::write_bytes;
use charm4rs_transport::port::{Port, PortEvent, Tag};
use charm4rs_transport::wireup::{self, TransportKind, TransportOptions};
use charm4rs_transport::{Layout, Pe, RegBuf};
use rustix::thread::{CpuSet, sched_setaffinity};

const RUNS: usize = 9;

/// Runs `there` on the second processor and `here` on the first, once both are where they belong.
fn both<R>(there: impl FnOnce() + Send, here: impl FnOnce() -> R) -> R {
    let ready = std::sync::Barrier::new(2);
    std::thread::scope(|s| {
        s.spawn(|| {
            pin(1);
            ready.wait();
            there();
        });
        ready.wait();
        pin(0);
        let done = here();
        unpin();
        done
    })
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("two processors");
}

/// So that the next thread does not begin on a processor that spins.
fn unpin() {
    let mut set = CpuSet::new();
    (0..2).for_each(|cpu| set.set(cpu));
    sched_setaffinity(None, &set).expect("two processors");
}

fn report(what: &str, mut figures: Vec<f64>, base: Option<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let (min, median) = (figures[0], figures[figures.len() / 2]);
    match base {
        Some(base) => println!("{what:32} min {min:9.1} ns  median {median:9.1} ns   {:.2}x", median / base),
        None => println!("{what:32} min {min:9.1} ns  median {median:9.1} ns"),
    }
    median
}

#[repr(align(128))]
struct Line(AtomicU64);

fn lines(two: bool) -> Vec<f64> {
    const N: u64 = 20_000;
    static LINES: [Line; 2] = [const { Line(AtomicU64::new(0)) }; 2];
    let back = usize::from(two);
    (0..RUNS)
        .map(|_| {
            LINES.iter().for_each(|l| l.0.store(0, Ordering::SeqCst));
            both(
                || {
                    for i in 0..N {
                        while LINES[0].0.load(Ordering::Acquire) != 2 * i + 1 {
                            std::hint::spin_loop();
                        }
                        LINES[back].0.store(2 * i + 2, Ordering::Release);
                    }
                },
                || {
                    let start = Instant::now();
                    for i in 0..N {
                        LINES[0].0.store(2 * i + 1, Ordering::Release);
                        while LINES[back].0.load(Ordering::Acquire) != 2 * i + 2 {
                            std::hint::spin_loop();
                        }
                    }
                    start.elapsed().as_nanos() as f64 / (2 * N) as f64
                },
            )
        })
        .collect()
}

/// Two lines a message: a flag, and a separate line of data that its reader reads and writes back.
fn two_lines() -> Vec<f64> {
    const N: u64 = 20_000;
    static FLAG: [Line; 2] = [const { Line(AtomicU64::new(0)) }; 2];
    static DATA: [Line; 2] = [const { Line(AtomicU64::new(0)) }; 2];
    (0..RUNS)
        .map(|_| {
            FLAG.iter().chain(&DATA).for_each(|l| l.0.store(0, Ordering::SeqCst));
            both(
                || {
                    for i in 1..=N {
                        while FLAG[0].0.load(Ordering::Acquire) != i {
                            std::hint::spin_loop();
                        }
                        let value = DATA[0].0.load(Ordering::Relaxed);
                        DATA[1].0.store(value, Ordering::Relaxed);
                        FLAG[1].0.store(i, Ordering::Release);
                    }
                },
                || {
                    let start = Instant::now();
                    for i in 1..=N {
                        DATA[0].0.store(i, Ordering::Relaxed);
                        FLAG[0].0.store(i, Ordering::Release);
                        while FLAG[1].0.load(Ordering::Acquire) != i {
                            std::hint::spin_loop();
                        }
                        assert_eq!(DATA[1].0.load(Ordering::Relaxed), i);
                    }
                    start.elapsed().as_nanos() as f64 / (2 * N) as f64
                },
            )
        })
        .collect()
}

fn ports(kind: TransportKind, f: impl FnOnce(Port) + Send, g: impl FnOnce(Port) -> f64) -> f64 {
    let options = TransportOptions { force: Some(kind), ..TransportOptions::default() };
    let mut builders = wireup::local(Layout::one_host(2, 2), &options).expect("two PEs");
    let (one, zero) = (builders.pop().expect("PE 1"), builders.pop().expect("PE 0"));
    both(|| f(one.open().expect("a port")), || g(zero.open().expect("a port")))
}

fn next(port: &mut Port, events: &mut VecDeque<PortEvent>) -> charm4rs_transport::port::Incoming {
    loop {
        match events.pop_front() {
            Some(PortEvent::Message(m)) => return m,
            Some(other) => panic!("{other:?}"),
            None => {
                if port.poll(events, 64).expect("healthy") == 0 {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

fn latency(kind: TransportKind, len: usize) -> Vec<f64> {
    const N: u64 = 20_000;
    (0..RUNS)
        .map(|_| {
            ports(
                kind,
                |mut port| {
                    let mut events = VecDeque::new();
                    for _ in 0..N {
                        let m = next(&mut port, &mut events);
                        port.send(m.from, m.tag, len, |to| write_bytes(to, &m.msg));
                    }
                },
                |mut port| {
                    let mut events = VecDeque::new();
                    let data = vec![7u8; len];
                    let start = Instant::now();
                    for _ in 0..N {
                        port.send(Pe(1), Tag(3), len, |to| write_bytes(to, &data));
                        next(&mut port, &mut events);
                    }
                    start.elapsed().as_nanos() as f64 / (2 * N) as f64
                },
            )
        })
        .collect()
}

fn hand_over(kind: TransportKind, len: usize) -> Vec<f64> {
    const N: u64 = 5_000;
    (0..RUNS)
        .map(|_| {
            ports(
                kind,
                |mut port| {
                    let mut events = VecDeque::new();
                    for _ in 0..N {
                        let m = next(&mut port, &mut events);
                        let buf = port.alloc(len);
                        drop(m.payloads);
                        port.send_payloads(m.from, m.tag, 8, |to| write_bytes(to, &[0; 8]), vec![buf], false);
                    }
                },
                |mut port| {
                    let mut events = VecDeque::new();
                    let start = Instant::now();
                    for _ in 0..N {
                        let buf: RegBuf = port.alloc(len);
                        port.send_payloads(Pe(1), Tag(3), 8, |to| write_bytes(to, &[0; 8]), vec![buf], false);
                        next(&mut port, &mut events);
                    }
                    start.elapsed().as_nanos() as f64 / (2 * N) as f64
                },
            )
        })
        .collect()
}

fn rate(kind: TransportKind, len: usize) -> Vec<f64> {
    const N: u64 = 300_000;
    (0..RUNS)
        .map(|_| {
            ports(
                kind,
                |mut port| {
                    let mut events = VecDeque::new();
                    for _ in 0..N {
                        next(&mut port, &mut events);
                    }
                    port.send(Pe(0), Tag(1), 0, |_| {});
                },
                |mut port| {
                    let mut events = VecDeque::new();
                    let data = vec![7u8; len];
                    let start = Instant::now();
                    for _ in 0..N {
                        port.send(Pe(1), Tag(3), len, |to| write_bytes(to, &data));
                    }
                    next(&mut port, &mut events);
                    start.elapsed().as_nanos() as f64 / N as f64
                },
            )
        })
        .collect()
}

fn main() {
    report("one cache line, one way", lines(false), None);
    report("one line each way", lines(true), None);
    let base = report("two cache lines, one way", two_lines(), None);
    for kind in [TransportKind::Local, TransportKind::Shm] {
        for len in [8, 32, 100, 1000, 4096] {
            report(&format!("{kind:?} latency, {len} B"), latency(kind, len), Some(base));
        }
        for len in [8, 32, 100] {
            let ns = report(&format!("{kind:?} a message of a stream, {len} B"), rate(kind, len), Some(base));
            println!("{:32} {:.1} million/s", "", 1e3 / ns);
        }
        for len in [64 << 10, 1 << 20] {
            report(&format!("{kind:?} hand-over, {} KiB", len >> 10), hand_over(kind, len), Some(base));
        }
    }
}
