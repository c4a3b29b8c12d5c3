//! Whole jobs: quiescence, timers, replay.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::testing::{LockstepJob, SimOptions, simulate};
use proptest::prelude::*;

use crate::{law, simulated};

/// Runs a random program: `work` makes calls as a number says, until it is used up.
struct Worker {
    done: u64,
}

#[chare(index = usize)]
impl Worker {
    #[init]
    fn new() -> Self {
        Self { done: 0 }
    }
    #[entry]
    fn work(&mut self, cx: &mut Cx<Self>, seed: u64, left: u32) {
        self.done += 1;
        spread(&cx.collection(), seed, left);
    }
    #[entry]
    async fn slow_work(this: This<Self>, seed: u64, left: u32) {
        this.sleep(Duration::from_nanos(seed % 100_000)).await;
        this.with(|worker| worker.done += 1);
        this.collection().at(0).rest().await;
        spread(&this.collection(), seed, left);
    }
    #[entry]
    fn rest(&self) {}
    #[entry]
    fn done(&self) -> u64 {
        self.done
    }
}

const WORKERS: usize = 7;

/// The next calls of `work`: how the rest is split, and how each part is sent.
fn parts(seed: u64, left: u32) -> Vec<(u64, u32)> {
    let mut parts = Vec::new();
    let (mut seed, mut left) = (seed, left);
    while left > 0 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let part = 1 + u32::try_from(seed >> 33).unwrap() % left;
        parts.push((seed, part - 1));
        left -= part;
    }
    parts
}

fn spread(workers: &charm4rs::Collection<Worker>, seed: u64, left: u32) {
    for (seed, left) in parts(seed, left) {
        let to = workers.at(usize::try_from(seed >> 40).unwrap() % WORKERS);
        match (seed >> 20) % 4 {
            0 => _ = to.slow_work(seed, left),
            1 => _ = to.work(seed, left).priority(i32::try_from(seed >> 50 & 0xF).unwrap() - 8),
            2 => _ = to.work(seed, left).expedited(),
            _ => _ = to.work(seed, left),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn quiescence_comes_when_all_work_has_ended_and_not_before(
        program: u64, network: u64, pes in 1u32..9, ppn in 1u32..4, size in 0u32..80,
    ) {
        let outcome = simulate(&SimOptions::new(pes, network).ppn(ppn), move |job| async move {
            let workers = job.array::<Worker>(WORKERS, ());
            for round in 1..4 {
                spread(&workers, program.wrapping_mul(round), size);
                job.quiescence().await;
                let done: u64 = workers.all().done().await.iter().sum();
                assert_eq!(done, round * u64::from(size));
            }
        });
        prop_assert_eq!(outcome.unwrap(), 0);
    }
}

#[test]
fn a_job_without_work_is_quiescent_at_once() {
    law(|job| async move {
        job.quiescence().await;
        job.quiescence().await;
    });
}

#[test]
fn timers_fire_in_their_order_and_not_before_their_time() {
    simulated(12, |job| async move {
        let log = Rc::new(RefCell::new(Vec::new()));
        for ms in [5u64, 1, 3, 2, 4] {
            let log = log.clone();
            job.after(Duration::from_millis(ms), move || {
                assert!(job.now() >= Duration::from_millis(ms));
                log.borrow_mut().push(ms);
            });
        }
        job.sleep(Duration::from_millis(6)).await;
        assert_eq!(*log.borrow(), [1, 2, 3, 4, 5]);
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let outcome = simulate(&SimOptions::new(5, seed).ppn(2), |job| async move {
            let workers = job.array::<Worker>(WORKERS, ());
            spread(&workers, 99, 60);
            job.quiescence().await;
        });
        (outcome.unwrap(), outcome.steps, outcome.time)
    };
    assert_eq!(run(3), run(3));
    assert_ne!((run(3).1, run(3).2), (run(4).1, run(4).2));
}

#[test]
fn a_thousand_virtual_pes_are_one_job() {
    let outcome = simulate(&SimOptions::new(1_000, 1), |job| async move {
        let workers = job.group::<Worker>(());
        workers.all().work(5, 0).done().await;
        assert_eq!(workers.all().done().await, vec![1; 1_000]);
    });
    assert_eq!(outcome.unwrap(), 0);
}

thread_local! {
    static POKED: Cell<u32> = const { Cell::new(0) };
}

/// Counts calls in a thread-local counter.
struct Poked;

#[chare(index = u32)]
impl Poked {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn poke(&self, how: String) {
        assert_ne!(how, "too hard");
        POKED.set(POKED.get() + 1);
    }
}

#[test]
fn a_job_on_one_thread_runs_when_it_is_settled_and_returns_its_failure() {
    for job in [LockstepJob::threads, LockstepJob::processes].map(|open| open(3).unwrap()) {
        POKED.set(0);
        let all = job.on(Pe(0), |job| job.group::<Poked>(()));
        job.settle().unwrap();
        job.on(Pe(2), |_| drop(all.all().poke("gently".to_owned())));
        assert_eq!(POKED.get(), 0);
        job.settle().unwrap();
        assert_eq!(POKED.get(), 3);
        job.on(Pe(0), |_| drop(all.on(Pe(1)).poke("too hard".to_owned())));
        let failure = job.settle().unwrap_err();
        assert!(failure.what.contains("too hard"), "{failure:?}");
    }
}
