//! Costs of the engine's parts: posts and polls of small messages, memory of pools and slabs, payloads that are handed over.
//!
//! Both ends are on this thread, so no cache line moves between cores; `charmbench` measures that.

use std::collections::VecDeque;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use charm4rs_transport::port::{Port, PortEvent, Tag};
use charm4rs_transport::wireup;
use charm4rs_transport::{Event, Imm, Layout, Msg, OpId, Pe, Posted};
use charm4rs_transport::{TransportKind, TransportOptions};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// The backends that use the engine; over TCP the kernel dominates.
const KINDS: [TransportKind; 2] = [TransportKind::Local, TransportKind::Shm];
/// Messages in flight at once.
const BATCH: u64 = 32;

/// Two PEs.
struct Pair {
    from: Port,
    to: Port,
    events: Vec<Event>,
    arrivals: VecDeque<PortEvent>,
}

impl Pair {
    fn new(kind: TransportKind) -> Self {
        let options = TransportOptions { force: Some(kind), may_block: false, ..TransportOptions::default() };
        let builders = wireup::local(Layout::one_host(2, 2), &options).expect("two PEs");
        let mut ports = builders.into_iter().map(|builder| builder.open().expect("a port"));
        let (from, to) = (ports.next().expect("PE 0"), ports.next().expect("PE 1"));
        Self { from, to, events: Vec::with_capacity(64), arrivals: VecDeque::with_capacity(64) }
    }

    /// Posts a small message at the seam.
    fn inject(&mut self, len: usize) {
        let posted = self.from.endpoint(Pe(1)).inject(Pe(1), Imm(0), len, &mut write);
        posted.expect("the ring has room for a batch");
    }

    /// Takes the arrivals at the seam.
    fn progress(&mut self) -> usize {
        let count = self.to.endpoint(Pe(0)).progress(&mut self.events, 64).expect("a healthy job");
        self.events.clear();
        count
    }

    fn poll(&mut self) -> usize {
        let count = self.to.poll(&mut self.arrivals, 64).expect("a healthy job");
        for event in self.arrivals.drain(..) {
            if let PortEvent::Message(message) = event {
                self.to.took(&message);
            }
        }
        count
    }

    /// Takes the message that was sent through the port.
    fn take(&mut self) {
        while self.poll() == 0 {
            // The receiver waits for credit, which the sender accepts when it polls.
            self.from.poll(&mut self.arrivals, 64).expect("a healthy job");
        }
    }

    /// Posts `count` messages, then takes them. Returns the time of each part.
    fn batches(&mut self, count: u64, len: usize) -> [Duration; 2] {
        let (mut posting, mut taking, mut left) = (Duration::ZERO, Duration::ZERO, count);
        while left > 0 {
            let batch = left.min(BATCH);
            let start = Instant::now();
            (0..batch).for_each(|_| self.inject(len));
            let posted = start.elapsed();
            let mut taken = 0;
            while taken < batch {
                taken += self.progress() as u64;
            }
            posting += posted;
            taking += start.elapsed() - posted;
            left -= batch;
        }
        [posting, taking]
    }
}

fn write(room: &mut [MaybeUninit<u8>]) {
    room.fill(MaybeUninit::new(1));
}

fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("seam");
    for kind in KINDS {
        let mut pair = Pair::new(kind);
        for len in [8, 100] {
            for (part, name) in ["post", "poll"].into_iter().enumerate() {
                let id = BenchmarkId::new(format!("{name} of a small message, {kind}"), len);
                group.bench_function(id, |b| b.iter_custom(|count| pair.batches(count, len)[part]));
            }
        }
        group.bench_function(format!("poll of nothing, {kind}"), |b| b.iter(|| pair.progress()));
    }
    group.finish();
}

fn port(c: &mut Criterion) {
    let mut group = c.benchmark_group("port");
    for kind in KINDS {
        let mut pair = Pair::new(kind);
        for len in [8, 100, 4 << 10] {
            group.bench_function(BenchmarkId::new(format!("a message sent and taken, {kind}"), len), |b| {
                b.iter(|| {
                    pair.from.send(Pe(1), Tag(1), len, write);
                    pair.take();
                });
            });
        }
        group.bench_function(BenchmarkId::new(format!("a payload handed over, {kind}"), 64 << 10), |b| {
            b.iter(|| {
                let payload = pair.from.alloc(64 << 10);
                pair.from.send_payloads(Pe(1), Tag(1), 8, write, vec![payload], false);
                pair.take();
            });
        });
        group.bench_function(format!("poll of nothing, {kind}"), |b| b.iter(|| pair.poll()));
    }
    group.finish();
}

fn memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("memory");
    for kind in KINDS {
        let mut pair = Pair::new(kind);
        for len in [1 << 10, 64 << 10, 1 << 20] {
            group.bench_function(BenchmarkId::new(format!("a buffer of the pool, {kind}"), len), |b| {
                b.iter(|| black_box(pair.from.endpoint(Pe(1)).alloc(len)));
            });
        }
        group.bench_function(BenchmarkId::new(format!("a buffer handed over at the seam, {kind}"), 64 << 10), |b| {
            b.iter(|| {
                let end = pair.from.endpoint(Pe(1));
                let buf = end.alloc(64 << 10).expect("a pool");
                assert_eq!(end.send(Pe(1), Imm(0), buf, OpId(0)).expect("room"), Posted::Done);
                while pair.progress() == 0 {}
            });
        });
    }
    let slab = Pair::new(TransportKind::Local).from.slab().clone();
    group.bench_function("a message of the slab", |b| b.iter(|| black_box(Msg::fill(&slab, 64, write))));
    group.finish();
}

criterion_group! {
    name = all;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = ring, port, memory
}
criterion_main!(all);
