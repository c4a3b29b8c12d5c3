//! The cost of the object layer on top of a message: dispatch, the lookup of an element, packing, reductions.
//!
//! All PEs are on this thread, so no cache line moves between cores, and nothing sleeps: `charmbench` measures the cost between cores.

use std::hint::black_box;
use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::testing::{LockstepJob, over_the_wire};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// One on each PE.
struct Member(u64);

#[chare(index = u32)]
impl Member {
    #[init]
    fn new() -> Self {
        Self(0)
    }

    #[entry]
    fn add(&mut self, by: u64) {
        self.0 = self.0.wrapping_add(by);
    }
}

/// One of many elements.
struct Element(u64);

#[chare(index = u64)]
impl Element {
    #[init]
    fn new() -> Self {
        Self(0)
    }

    #[entry]
    fn add(&mut self, by: u64) {
        self.0 = self.0.wrapping_add(by);
    }

    #[entry]
    fn total(&mut self, cx: &mut Cx<Self>, to: Promise<u64>) {
        cx.contribute(self.0, reduce::sum, to);
    }
}

const CALLS: u64 = 1024;
const ELEMENTS: u64 = 4096;

fn settle(job: &LockstepJob) {
    job.settle().expect("nothing fails");
}

fn dispatch(c: &mut Criterion) {
    let mut group = c.benchmark_group("a call");
    group.throughput(Throughput::Elements(CALLS));
    let threads = |pes| LockstepJob::threads(pes).expect("memory");
    let cases = [
        ("dispatched on its PE", threads(1), Pe(0)),
        ("moved to another PE, dispatched", threads(2), Pe(1)),
        ("packed, to another process, unpacked, dispatched", LockstepJob::processes(2).expect("memory"), Pe(1)),
    ];
    for (name, job, to) in cases {
        let members = job.on(Pe(0), |job| job.group::<Member>(()));
        settle(&job);
        group.bench_function(name, |b| {
            b.iter(|| {
                job.on(Pe(0), |_| (0..CALLS).for_each(|by| drop(members.on(to).add(by))));
                settle(&job);
            });
        });
    }
    group.finish();
}

fn elements(c: &mut Criterion) {
    let job = LockstepJob::threads(1).expect("memory");
    let elements = job.on(Pe(0), |job| job.array::<Element>(ELEMENTS, ()));
    settle(&job);
    let mut group = c.benchmark_group("elements");
    group.throughput(Throughput::Elements(CALLS));
    // An odd stride visits all of them, and never a neighbour.
    for (name, stride) in [("a call, always the same one", 0), ("a call, its location looked up among 4096", 1237)] {
        let mut at = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                job.on(Pe(0), |_| {
                    for by in 0..CALLS {
                        at = (at + stride) % ELEMENTS;
                        drop(elements.at(at).add(by));
                    }
                });
                settle(&job);
            });
        });
    }
    group.throughput(Throughput::Elements(ELEMENTS));
    group.bench_function("a contribution: broadcast, and sum of all", |b| {
        b.iter(|| {
            let sum = job.on(Pe(0), |job| {
                let (to, sum) = job.promise::<u64>();
                drop(elements.all().total(to));
                sum
            });
            settle(&job);
            job.on(Pe(0), |_| drop(sum));
        });
    });
    group.finish();
}

fn pack(c: &mut Criterion) {
    let mut group = c.benchmark_group("packed and unpacked");
    let small = (7u32, 1u64 << 40, 2.5f64);
    group.bench_function("three numbers", |b| b.iter(|| over_the_wire(black_box(&small))));
    let text = (7u32, "a name of some length".to_owned(), vec![1.5f64; 16]);
    group.bench_function("a number, a name, sixteen numbers", |b| b.iter(|| over_the_wire(black_box(&text))));
    let row = (7u32, Payload::<f64>::zeroed(1 << 10));
    group.bench_function("a number, and 8 KiB beside the message", |b| b.iter(|| over_the_wire(black_box(&row))));
    group.finish();
}

criterion_group! {
    name = all;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = dispatch, elements, pack
}
criterion_main!(all);
