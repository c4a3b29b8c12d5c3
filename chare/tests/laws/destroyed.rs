//! The destruction of collections.

use std::cell::Cell;

use charm4rs::prelude::*;
use charm4rs::{CallError, Collection};

use crate::{law, simulated};

std::thread_local! {
    /// The number of living chares on all PEs of a simulation.
    static ALIVE: Cell<i64> = const { Cell::new(0) };
}

struct Counted;

impl Counted {
    fn begin() -> Self {
        ALIVE.set(ALIVE.get() + 1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.set(ALIVE.get() - 1);
    }
}

/// Counts its calls.
struct Block {
    told: u64,
    _counted: Counted,
}

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Self { told: 0, _counted: Counted::begin() }
    }
    #[entry]
    fn tell(&mut self, by: u64) {
        self.told += by;
    }
    #[entry]
    fn told(&self) -> u64 {
        self.told
    }
    #[entry]
    fn report(&self, cx: &mut Cx<Self>, over: Collection<Block>, to: Promise<u64>) {
        cx.contribute_in(&over, self.told, reduce::sum, to);
    }
    #[entry]
    fn total(&self, cx: &mut Cx<Self>, to: Promise<u64>) {
        cx.contribute(self.told, reduce::sum, to);
    }
    #[entry]
    async fn waits(this: This<Self>) {
        this.next_never().await;
    }
    #[entry]
    fn never(&self);
    /// A caller on any PE destroys the array, after other calls.
    #[entry]
    fn end(&self, cx: &mut Cx<Self>, blocks: Collection<Block>, sink: Collection<Sink>) {
        let _ = cx;
        blocks.all().last_words(sink);
        for i in 0..8 {
            blocks.at(i).last_words(sink);
        }
        blocks.destroy();
    }
    #[entry]
    fn last_words(&self, sink: Collection<Sink>) {
        sink.at(0).hear();
    }
}

struct Sink {
    heard: u64,
}

#[chare(index = usize)]
impl Sink {
    #[init]
    fn new() -> Self {
        Self { heard: 0 }
    }
    #[entry]
    fn hear(&mut self) {
        self.heard += 1;
    }
    #[entry]
    fn heard(&self) -> u64 {
        self.heard
    }
}

fn is_destroyed<T: std::fmt::Debug>(result: Result<T, CallError>, entry: &str) {
    match result {
        Err(CallError::Destroyed { chare, what, .. }) => {
            assert!(chare.ends_with("Block") && what == entry, "{chare}.{what}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_destroyed_array_drops_its_chares_on_all_pes() {
    simulated(60, |job| async move {
        let before = ALIVE.get();
        let blocks = job.array::<Block>(8, ());
        blocks.created().await;
        assert_eq!(ALIVE.get(), before + 8);
        blocks.destroy();
        job.quiescence().await;
        assert_eq!(ALIVE.get(), before);
        blocks.destroy();
        job.quiescence().await;
    });
}

#[test]
fn calls_of_a_destroyed_array_fail_wherever_they_arrive() {
    simulated(60, |job| async move {
        let blocks = job.array::<Block>(8, ());
        let waits = blocks.at(7).waits().checked();
        blocks.destroy();
        assert!(matches!(waits.await, Err(CallError::Dropped { .. })));
        job.quiescence().await;
        for i in 0..8 {
            is_destroyed(blocks.at(i).told().checked().await, "told");
        }
        is_destroyed(blocks.all().told().checked().await, "told");
    });
}

#[test]
fn a_broadcast_during_the_destruction_is_answered() {
    simulated(200, |job| async move {
        let blocks = job.array::<Block>(8, ());
        let others = job.array::<Block>(8, ());
        blocks.created().await;
        others.created().await;
        let sink = job.array::<Sink>(1, ());
        others.at(7).end(others, sink);
        // The end comes from another PE at any time before, during, or after this.
        match others.all().told().checked().await {
            Ok(told) => assert_eq!(told, [0; 8]),
            Err(CallError::Destroyed { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        job.quiescence().await;
        assert_eq!(blocks.all().told().await, [0; 8]);
    });
}

#[test]
fn earlier_calls_of_the_destroying_pe_arrive_before_the_end() {
    simulated(100, |job| async move {
        for from in [0, 3, 7] {
            let (blocks, sink) = (job.array::<Block>(8, ()), job.array::<Sink>(1, ()));
            blocks.at(from).end(blocks, sink);
            job.quiescence().await;
            assert_eq!(sink.at(0).heard().await, 16);
            is_destroyed(blocks.at(from).told().checked().await, "told");
        }
    });
}

#[test]
fn sections_are_destroyed_with_their_array_and_an_array_outlives_its_section() {
    simulated(60, |job| async move {
        let blocks = job.array::<Block>(8, ());
        let (some, others) = (blocks.section([1, 2, 6]), blocks.section([0, 7]));
        for (section, by, sum_of) in [(some, 1, 3), (others, 2, 4)] {
            section.all().tell(by);
            let (promise, sum) = job.promise();
            section.all().report(section, promise);
            assert_eq!(sum.await, sum_of);
        }
        some.destroy();
        job.quiescence().await;
        is_destroyed(some.all().told().checked().await, "told");
        let (promise, sum) = job.promise();
        blocks.all().total(promise);
        assert_eq!(sum.await, 3 + 4);
        assert_eq!(others.all().told().await, [2, 2]);
        blocks.destroy();
        job.quiescence().await;
        is_destroyed(others.all().told().checked().await, "told");
    });
}

#[test]
fn a_section_that_is_created_while_its_array_is_destroyed_is_destroyed_with_it() {
    simulated(120, |job| async move {
        for filled in [false, true] {
            let blocks = if filled { job.array::<Block>(8, ()) } else { job.sparse() };
            if filled {
                blocks.created().await;
            } else {
                (0..8).for_each(|i| blocks.insert(i, ()));
                blocks.done_inserting().await;
            }
            let [some, others] = [[1, 2, 6], [0, 3, 7]].map(|indices| blocks.section(indices));
            // It may be created before the array is destroyed.
            let told = some.all().told().checked();
            let created = others.created().checked();
            blocks.destroy();
            if let Err(error) = created.await {
                assert!(matches!(error, CallError::Destroyed { .. }), "{error}");
            }
            match told.await {
                Ok(told) => assert_eq!(told, [0; 3]),
                error => is_destroyed(error, "told"),
            }
            job.quiescence().await;
            is_destroyed(some.all().told().checked().await, "told");
            is_destroyed(others.all().told().checked().await, "told");
            if let Err(error) = some.created().checked().await {
                assert!(matches!(error, CallError::Destroyed { .. }), "{error}");
            }
        }
    });
}

#[test]
fn a_later_similar_array_starts_afresh() {
    simulated(60, |job| async move {
        let mut names = Vec::new();
        for round in 0..6u64 {
            let blocks = job.array::<Block>(8, ());
            let section = blocks.section([2, 3, 4]);
            blocks.all().tell(round);
            let (promise, sum) = job.promise();
            blocks.all().total(promise);
            assert_eq!(sum.await, 8 * round);
            let (promise, sum) = job.promise();
            section.all().report(section, promise);
            assert_eq!(sum.await, 3 * round);
            for earlier in &names {
                let earlier: &Collection<Block> = earlier;
                is_destroyed(earlier.at(5).told().checked().await, "told");
            }
            blocks.destroy();
            job.quiescence().await;
            names.push(blocks);
        }
    });
}

#[test]
fn an_array_that_is_filled_by_hand_can_be_destroyed_open_or_closed() {
    simulated(60, |job| async move {
        for closes in [false, true] {
            let before = ALIVE.get();
            let blocks = job.sparse::<Block>();
            (0..5).for_each(|i| blocks.insert(10 * i, ()));
            if closes {
                blocks.done_inserting().await;
            } else {
                job.quiescence().await;
            }
            assert_eq!(ALIVE.get(), before + 5);
            blocks.destroy();
            job.quiescence().await;
            assert_eq!(ALIVE.get(), before);
            is_destroyed(blocks.at(20).told().checked().await, "told");
        }
    });
}

#[test]
fn groups_and_arrays_can_be_destroyed_on_threads() {
    law(|job| async move {
        for _ in 0..50 {
            let blocks = job.array::<Block>(8, ());
            blocks.all().tell(1);
            let (promise, sum) = job.promise();
            blocks.all().total(promise);
            assert_eq!(sum.await, 8);
            blocks.destroy();
        }
    });
}
