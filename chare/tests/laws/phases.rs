//! Elements that are inserted after an array was closed, and take part in reductions when it is closed again.

use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::testing::simulate;
use charm4rs::{CallError, Collection};

use crate::{SimOptions, law, simulated};

/// Counts itself, in vectors that are pipelined if they are long.
pub(crate) struct Cell;

#[chare(index = i64)]
impl Cell {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn who(&self, cx: &mut Cx<Self>) -> (i64, Pe) {
        (cx.index(), cx.pe())
    }
    #[entry]
    fn total(&self, cx: &mut Cx<Self>, to: Promise<i64>) {
        cx.contribute(cx.index(), reduce::sum, to);
    }
    /// Makes `rounds` reductions, at this element's own pace.
    #[entry]
    async fn rounds(this: This<Self>, rounds: u64, words: usize, sink: Collection<Ear>) {
        for round in 0..rounds {
            // As long as messages take; or many at once.
            let mixed = (this.index().unsigned_abs() << 20 ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            if !mixed.is_multiple_of(4) {
                this.sleep(Duration::from_nanos(mixed % 80_000)).await;
            }
            this.contribute(vec![1u64; words], reduce::sum, sink.at(0).hear_sink());
        }
    }
    #[entry]
    async fn agree(this: This<Self>, rounds: i64) -> Vec<i64> {
        let mut sums = Vec::new();
        for round in 0..rounds {
            sums.push(this.allreduce(round, reduce::sum).await);
        }
        sums
    }
    /// Inserts one more element for each, on some PE.
    #[entry]
    fn double(&self, cx: &mut Cx<Self>, level: i64) {
        let at = u32::try_from(cx.index() * 7 + level).unwrap() % cx.job().pes();
        cx.collection().insert_on(Pe(at), cx.index() + (1 << level), ());
    }
    #[entry]
    fn part(&self, cx: &mut Cx<Self>, section: Collection<Cell>, to: Promise<i64>) {
        cx.contribute_in(&section, cx.index(), reduce::sum, to);
    }
    #[entry]
    fn leave(&self, cx: &mut Cx<Self>) {
        cx.destroy();
    }
}

/// Receives results.
#[derive(Default)]
pub(crate) struct Ear {
    heard: Vec<u64>,
}

#[chare(index = usize)]
impl Ear {
    #[init]
    fn new() -> Self {
        Self::default()
    }
    #[entry]
    fn hear(&mut self, sums: Vec<u64>) {
        assert!(sums.iter().all(|sum| *sum == sums[0]));
        self.heard.push(sums[0]);
    }
    #[entry]
    fn heard(&self) -> Vec<u64> {
        self.heard.clone()
    }
}

/// Inserts from every PE.
struct Inserter;

#[chare(index = u32)]
impl Inserter {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn insert(&self, cx: &mut Cx<Self>, cells: Collection<Cell>, phase: i64, count: i64) {
        for i in 0..count {
            insert(&cx.job(), cells, index(cx.index(), phase, i));
        }
    }
    /// Inserts, and closes; returns the minimal number of elements at that time.
    #[entry]
    async fn insert_and_close(this: This<Self>, cells: Collection<Cell>, phase: i64, count: i64) -> i64 {
        for i in 0..count {
            insert(&this.job(), cells, index(this.index(), phase, i));
            if i % 4 == 1 {
                cells.done_inserting().await;
            }
        }
        cells.done_inserting().await;
        for i in 0..count {
            let index = index(this.index(), phase, i);
            assert_eq!(cells.at(index).who().await.0, index);
        }
        count
    }
    /// Inserts, closes, and calls all, without waiting; returns the number of elements.
    #[entry]
    async fn fill(this: This<Self>, cells: Collection<Cell>, count: i64) -> usize {
        for i in 0..count {
            insert(&this.job(), cells, index(this.index(), 0, i));
        }
        let closed = cells.done_inserting();
        let there = cells.all().who().call();
        closed.await;
        there.await.len()
    }
    /// Inserts and calls, without waiting, while others request elements that do not exist.
    #[entry]
    async fn race(this: This<Self>, cells: Collection<Cell>, rounds: i64) {
        let mut there = Vec::new();
        let mut missing = Vec::new();
        for i in 0..rounds {
            let (index, at) =
                (index(this.index(), 1, i), Pe((this.index() + 1 + u32::try_from(i).unwrap()) % this.job().pes()));
            cells.insert_on(at, index, ());
            there.push((cells.at(index).who().call(), (index, at)));
            missing.push(cells.at(-index - 1).who().checked());
            this.sleep(Duration::from_nanos((i.unsigned_abs() * 7_919 + u64::from(this.index()) * 104_729) % 60_000))
                .await;
        }
        for (call, who) in there {
            assert_eq!(call.await, who);
        }
        for call in missing {
            assert!(matches!(call.await, Err(CallError::NoSuchElement { .. })));
        }
    }
    /// Calls an element that another PE has inserted.
    #[entry]
    async fn call(this: This<Self>, cells: Collection<Cell>, index: i64) -> Pe {
        let _ = this;
        cells.at(index).who().await.1
    }
}

fn index(pe: u32, phase: i64, i: i64) -> i64 {
    (phase * 100 + i) * 64 + i64::from(pe)
}

/// Inserts at home, or elsewhere.
pub(crate) fn insert(job: &Job, cells: Collection<Cell>, index: i64) {
    match index % 3 {
        0 => cells.insert(index, ()),
        _ => cells.insert_on(Pe(u32::try_from(index % i64::from(job.pes())).unwrap()), index, ()),
    }
}

async fn total(job: &Job, cells: Collection<Cell>) -> i64 {
    let (promise, sum) = job.promise();
    cells.all().total(promise);
    sum.await
}

#[test]
fn elements_of_each_phase_are_called_and_reduced_with_those_before() {
    simulated(90, |job| async move {
        let cells = job.sparse::<Cell>();
        let inserters = job.group::<Inserter>(());
        let mut indices = Vec::new();
        for phase in 0..5 {
            inserters.all().insert(cells, phase, phase % 3).done().await;
            indices.extend((0..job.pes()).flat_map(|pe| (0..phase % 3).map(move |i| index(pe, phase, i))));
            cells.done_inserting().await;
            // Some of each phase leave.
            let gone: Vec<_> = indices.extract_if(.., |index| *index % 5 == 4).collect();
            for index in gone {
                cells.at(index).leave().done().await;
            }
            indices.sort_unstable();
            let there: Vec<_> = cells.all().who().await.into_iter().map(|(index, _)| index).collect();
            assert_eq!(there, indices);
            if !indices.is_empty() {
                for _ in 0..3 {
                    assert_eq!(total(&job, cells).await, indices.iter().sum::<i64>());
                }
                let sums = cells.all().agree(3).await;
                let count = indices.len() as i64;
                assert!(sums.iter().all(|sums| *sums == [0, count, 2 * count]), "{sums:?}");
            }
        }
    });
}

/// Old elements are some reductions apart when new ones join.
fn reductions_go_on_while_elements_join(words: usize, rounds: u64, seeds: u64) {
    simulated(seeds, move |job| async move {
        let (cells, ear) = (job.sparse::<Cell>(), job.array::<Ear>(1, ()));
        let inserters = job.group::<Inserter>(());
        inserters.all().insert(cells, 0, 3).done().await;
        cells.done_inserting().await;
        let mut sizes = vec![3 * u64::from(job.pes())];
        cells.all().rounds(rounds, words, ear);
        for phase in 1..4 {
            inserters.all().insert(cells, phase, phase).done().await;
            let news = (0..job.pes()).flat_map(|pe| (0..phase).map(move |i| index(pe, phase, i)));
            news.for_each(|index| drop(cells.at(index).rounds(rounds, words, ear)));
            cells.done_inserting().await;
            sizes.push(sizes[sizes.len() - 1] + phase.unsigned_abs() * u64::from(job.pes()));
        }
        job.quiescence().await;
        // Elements that came later have contributed beyond the last reduction of the old ones.
        let heard = ear.at(0).heard().await;
        assert_eq!(heard.len() as u64, rounds, "{heard:?}");
        assert!(heard.is_sorted() && heard.iter().all(|sum| sizes.contains(sum)), "{heard:?} {sizes:?}");
    });
}

#[test]
fn reductions_in_progress_when_elements_join_include_all_of_them_or_none() {
    reductions_go_on_while_elements_join(1, 40, 300);
}

#[test]
fn large_reductions_in_progress_when_elements_join_include_all_of_them_or_none() {
    reductions_go_on_while_elements_join(20_000, 5, 60);
}

#[test]
fn every_pe_may_close_and_then_sees_its_earlier_insertions() {
    simulated(120, |job| async move {
        let cells = job.sparse::<Cell>();
        let inserters = job.group::<Inserter>(());
        for phase in 0..3 {
            let made: i64 = inserters.all().insert_and_close(cells, phase, 5).await.iter().sum();
            assert_eq!(made, 5 * i64::from(job.pes()));
            let there = cells.all().who().await;
            assert_eq!(there.len() as i64, (phase + 1) * made);
            assert_eq!(total(&job, cells).await, there.iter().map(|(index, _)| index).sum::<i64>());
        }
    });
}

#[test]
fn a_pe_that_does_not_know_an_array_yet_may_fill_and_close_it() {
    simulated(200, |job| async move {
        let inserters = job.group::<Inserter>(());
        inserters.all().insert(job.sparse::<Cell>(), 0, 0).done().await;
        for pe in 0..job.pes() {
            // The call comes directly, the array from PE to PE.
            let cells = job.sparse::<Cell>();
            assert_eq!(inserters.on(Pe(pe)).fill(cells, 5).await, 5);
        }
    });
}

#[test]
fn a_call_waits_for_an_element_that_is_inserted_in_a_later_phase() {
    simulated(150, |job| async move {
        let cells = job.sparse::<Cell>();
        let inserters = job.group::<Inserter>(());
        cells.insert(0, ());
        cells.done_inserting().await;
        for round in 1..6u32 {
            let (here, elsewhere) = (i64::from(round) * 10, Pe(round % job.pes()));
            cells.insert_on(elsewhere, here, ());
            let other = inserters.at(round % job.pes()).call(cells, here).call();
            assert_eq!(cells.at(here).who().await, (here, elsewhere));
            assert_eq!(other.await, elsewhere);
            // Again, after its end, at home.
            cells.at(here).leave().done().await;
            let error = cells.at(here).who().checked().await.unwrap_err();
            assert!(matches!(error, CallError::NoSuchElement { .. }), "{error}");
            cells.insert(here + 1, ());
            cells.at(here + 1).leave().done().await;
            cells.insert(here + 1, ());
            assert_eq!(cells.at(here + 1).who().await.0, here + 1);
        }
        cells.done_inserting().await;
        assert_eq!(cells.all().who().await.len(), 6);
    });
}

#[test]
fn calls_of_inserted_elements_succeed_while_others_request_elements_that_do_not_exist() {
    simulated(150, |job| async move {
        let cells = job.sparse::<Cell>();
        let inserters = job.group::<Inserter>(());
        cells.done_inserting().await;
        inserters.all().race(cells, 8).done().await;
        cells.done_inserting().await;
        assert_eq!(cells.all().who().await.len() as i64, 8 * i64::from(job.pes()));
    });
}

#[test]
fn calls_of_all_sections_and_destruction_need_not_wait_for_closing() {
    simulated(120, |job| async move {
        let cells = job.sparse::<Cell>();
        for phase in 0..4i64 {
            (0..6).for_each(|i| insert(&job, cells, phase * 6 + i));
            drop(cells.done_inserting());
            let section = cells.section([phase * 6, phase * 6 + 5]);
            let [(all, of_all), (part, of_part)] = [job.promise(), job.promise()];
            cells.all().total(all);
            section.all().part(section, part);
            let count = 6 * (phase + 1);
            assert_eq!((of_all.await, of_part.await), (count * (count - 1) / 2, 12 * phase + 5));
        }
        (24..30).for_each(|i| insert(&job, cells, i));
        drop(cells.done_inserting());
        let there = cells.all().who().call();
        cells.destroy();
        assert_eq!(there.await.len(), 30);
    });
}

#[test]
fn elements_that_are_inserted_because_of_a_broadcast_do_not_get_it() {
    simulated(150, |job| async move {
        let cells = job.sparse::<Cell>();
        cells.insert(0, ());
        cells.done_inserting().await;
        for level in 0..6 {
            cells.all().double(level);
            if level % 2 == 0 {
                job.quiescence().await;
                cells.done_inserting().await;
            } else {
                cells.insert(1000 + level, ()); // not doubled: it comes after
                job.quiescence().await;
                cells.at(1000 + level).leave().done().await;
                cells.done_inserting().await;
            }
            assert_eq!(cells.all().who().await.len(), 2 << level);
            assert_eq!(total(&job, cells).await, (0..2 << level).sum::<i64>());
        }
    });
}

#[test]
fn sections_have_elements_of_several_phases() {
    law(|job| async move {
        let cells = job.sparse::<Cell>();
        for phase in 0..3 {
            (0..4).for_each(|i| insert(&job, cells, phase * 4 + i));
            cells.done_inserting().await;
        }
        let section = cells.section([1, 6, 11]);
        let (promise, sum) = job.promise();
        section.all().part(section, promise);
        assert_eq!(sum.await, 18);
    });
}

#[test]
fn a_deadlock_names_an_element_that_waits_for_the_array_to_be_closed_again() {
    let end = simulate(&SimOptions::new(3, 1), |job| async move {
        let cells = job.sparse::<Cell>();
        cells.insert(1, ());
        cells.done_inserting().await;
        cells.insert(2, ());
        let (promise, sum) = job.promise();
        cells.at(2).total(promise);
        sum.await;
    });
    let text = end.unwrap_err().what;
    assert!(text.contains("Cell[2] contributed and waits: it was inserted after the array had been closed"), "{text}");
}
