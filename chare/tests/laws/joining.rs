//! Arrays that grow while their elements contribute, leave and are called, and that several PEs close at once: schedules that failed once, and random
//! ones.

use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::testing::{SimOptions, simulate};
use charm4rs::{Collection, IndexMap, Places};
use charm4rs_transport::seed;

use crate::phases::{Cell, insert};

/// Runs jobs of these numbers of PEs, each PE in a process of its own.
#[track_caller]
fn on<F: Future<Output: charm4rs::MainResult> + 'static>(
    pes: &[u32],
    seeds: std::ops::Range<u64>,
    job: impl Fn(Job) -> F,
) {
    for seed in seed::from_environment().map_or(seeds, |seed| seed..seed + 1) {
        let options = SimOptions {
            steps_max: 3_000_000,
            ..SimOptions::new(pes[usize::try_from(seed).unwrap() % pes.len()], seed)
        };
        assert_eq!(simulate(&options, &job).unwrap(), 0, "{options:?}");
    }
}

/// Closes without waiting; or inserts elements whose arguments cannot be sent.
struct Closer;

#[chare(index = u32)]
impl Closer {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn close(&self, cx: &mut Cx<Self>, cells: Collection<Cell>) {
        let _ = cx;
        drop(cells.done_inserting());
    }
    #[entry]
    async fn bad(this: This<Self>, bads: Collection<Bad>) {
        let _ = this;
        bads.insert(7, Unpackable);
    }
}

#[derive(Clone, Copy)]
struct Unpackable;

impl serde::Serialize for Unpackable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no"))
    }
}

impl<'de> serde::Deserialize<'de> for Unpackable {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Self)
    }
}

struct Bad;

#[chare(index = i64)]
impl Bad {
    #[init]
    fn new(with: Unpackable) -> Self {
        let _ = with;
        Self
    }
    #[entry]
    fn nothing(&self) {}
}

#[test]
fn an_insertion_that_cannot_be_sent_does_not_prevent_closing() {
    on(&[2, 3, 4], 0..12, |job| async move {
        let bads = job.sparse::<Bad>();
        let closers = job.group::<Closer>(());
        for pe in 0..job.pes() {
            // An argument that stays in its process need not be packed.
            let _ = closers.on(Pe(pe)).bad(bads).checked().await;
        }
        bads.done_inserting().await;
    });
}

#[test]
fn an_array_may_be_destroyed_while_another_pe_closes_it() {
    on(&[2, 3, 4], 0..60, |job| async move {
        let cells = job.sparse::<Cell>();
        let closers = job.group::<Closer>(());
        closers.created().await;
        closers.on(Pe(1)).close(cells).done().await;
        cells.destroy();
        job.quiescence().await;
    });
}

#[test]
fn contributions_of_an_element_that_leaves_before_the_array_is_closed_count() {
    on(&[2, 3, 4], 0..150, |job| async move {
        let cells = job.sparse::<Cell>();
        let (promise, sum) = job.promise();
        for i in 0..10 {
            insert(&job, cells, i);
            cells.at(i).total(promise);
            cells.at(i).leave();
            if i == 5 {
                drop(cells.done_inserting());
            }
        }
        cells.done_inserting().await;
        assert_eq!(sum.await, 45);
        // In a later phase, too.
        let (promise, sum) = job.promise();
        for i in 0..10 {
            cells.insert(i, ());
            cells.at(i).total(promise);
            cells.at(i).leave();
        }
        cells.done_inserting().await;
        assert_eq!(sum.await, 45);
    });
}

struct Leaver;

#[chare(index = i64)]
impl Leaver {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn fill(&self, cx: &mut Cx<Self>, cells: Collection<Cell>, promise: Promise<i64>) {
        for i in 0..3 {
            let index = cx.index() * 3 + i;
            insert(&cx.job(), cells, index);
            cells.at(index).total(promise);
            cells.at(index).leave();
        }
    }
}
#[test]
fn contributions_of_leaving_elements_count_if_other_pes_insert_them_one_by_one() {
    on(&[2, 3, 4, 7], 0..300, |job| async move {
        let leavers = job.array::<Leaver>(i64::from(job.pes()), ());
        leavers.created().await;
        let cells = job.sparse::<Cell>();
        let (promise, sum) = job.promise();
        let pes = i64::from(job.pes());
        for i in 0..pes {
            leavers.at(i).fill(cells, promise).await;
        }
        cells.done_inserting().await;
        assert_eq!(sum.await, 3 * pes * (3 * pes - 1) / 2);
    });
}

#[test]
fn an_index_that_is_inserted_again_is_found_at_its_new_location() {
    on(&[4, 7, 5], 0..400, |job| async move {
        let cells = job.sparse::<Cell>();
        cells.insert_on(Pe(1), 5, ());
        cells.done_inserting().await;
        for round in 2..8u32 {
            cells.at(5).leave().done().await;
            let pe = Pe(round % job.pes());
            cells.insert_on(pe, 5, ());
            if round % 2 == 0 {
                cells.done_inserting().await;
            }
            assert_eq!(cells.at(5).who().await, (5, pe));
        }
    });
}

#[test]
fn reductions_do_not_wait_for_reductions_that_ended_on_other_pes() {
    for late in [0, 2, 4, 8, 16, 40] {
        on(&[6], 0..12, move |job| async move {
            let cells = job.sparse::<Cell>();
            let [a, b, c, d] = [1, 2, 3, 4];
            [(0, a), (2, b), (5, c)].into_iter().for_each(|(pe, index)| cells.insert_on(Pe(pe), index, ()));
            cells.done_inserting().await;
            let [(first, of_first), (second, of_second)] = [job.promise(), job.promise()];
            cells.at(a).leave().done().await;
            cells.at(b).total(first).done().await;
            cells.at(b).leave().done().await;
            // It contributes from the second reduction on, at the root, which has no part in the first.
            cells.insert_on(Pe(0), d, ());
            cells.done_inserting().await;
            cells.at(d).total(second).done().await;
            let closed = cells.done_inserting();
            job.sleep(Duration::from_micros(late)).await;
            cells.at(c).total(first);
            cells.at(c).leave();
            closed.await;
            assert_eq!((of_first.await, of_second.await), (b + c, d));
        });
    }
}

/// Its home is one PE.
#[derive(Clone, Default, Serialize, Deserialize)]
struct OnLast;

impl IndexMap<i64> for OnLast {
    fn pe(&self, index: &i64, places: &Places) -> Pe {
        if *index < 0 { Pe(u32::try_from(-index).unwrap() % places.pes) } else { Pe(places.pes - 1) }
    }
}

struct Far;

#[chare(index = i64, map = OnLast)]
impl Far {
    #[init]
    fn new(data: Vec<u8>) -> Self {
        drop(data);
        Self
    }
    #[entry]
    fn who(&self) {}
}

struct FarCaller;

#[chare(index = u32)]
impl FarCaller {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    async fn one_by_one(this: This<Self>, fars: Collection<Far>, rounds: i64) {
        let _ = this;
        for i in 0..rounds {
            fars.insert_on(Pe(1), i, Vec::new());
            fars.at(i).who().await;
        }
    }
    #[entry]
    async fn miss(this: This<Self>, fars: Collection<Far>, rounds: i64) {
        for _ in 0..rounds {
            let _ = fars.at(-i64::from(this.index())).who().checked().await;
        }
    }
}

#[test]
fn a_home_that_is_told_late_of_an_element_keeps_its_calls() {
    on(&[3], 340..380, |job| async move {
        let fars = job.sparse::<Far>();
        let callers = job.group::<FarCaller>(());
        fars.done_inserting().await;
        callers.on(Pe(2)).one_by_one(fars, 60).await;
    });
}

#[test]
fn a_verdict_that_the_next_question_overtakes_does_not_fail_later_calls() {
    on(&[6], 0..16, |job| async move {
        let fars = job.sparse::<Far>();
        let callers = job.group::<FarCaller>(());
        fars.done_inserting().await;
        let missed: Vec<_> = (1..5).map(|pe| callers.on(Pe(pe)).miss(fars, 40).call()).collect();
        for i in 0..30 {
            fars.insert_on(Pe(2), i, vec![0; 800 << 10]);
            fars.at(i).who().await;
        }
        for one in missed {
            one.await;
        }
    });
}

/// The contributions of all elements, one word each.
const SLOTS: usize = 60;

struct Member;

#[chare(index = i64)]
impl Member {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    async fn go(this: This<Self>, rounds: u64, words: usize, sink: Collection<Lists>, leaves: bool) {
        for round in 0..rounds {
            let mixed = (this.index().unsigned_abs() << 20 ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            if !mixed.is_multiple_of(4) {
                this.sleep(Duration::from_nanos(mixed % 60_000)).await;
            }
            let mut ones = vec![0u64; words];
            ones[usize::try_from(this.index()).unwrap()] = 1 << (8 * round);
            this.contribute(ones, reduce::sum, sink.at(0).hear_sink());
        }
        if leaves {
            this.destroy();
        }
    }
}

#[derive(Default)]
struct Lists {
    heard: Vec<Vec<u64>>,
}

#[chare(index = usize)]
impl Lists {
    #[init]
    fn new() -> Self {
        Self::default()
    }
    #[entry]
    fn hear(&mut self, sums: Vec<u64>) {
        self.heard.push(sums);
    }
    #[entry]
    fn heard(&self) -> Vec<Vec<u64>> {
        self.heard.clone()
    }
}

struct Filler;

#[chare(index = u32)]
impl Filler {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    async fn fill(
        this: This<Self>,
        members: Collection<Member>,
        sink: Collection<Lists>,
        count: i64,
        words: usize,
        late: bool,
    ) {
        for i in 0..count {
            let slot = i64::from(this.index()) * count + i;
            let mixed = (slot.unsigned_abs() + 77).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let pe = Pe(u32::try_from(mixed).unwrap() % this.job().pes());
            members.insert_on(pe, slot, ());
            let rounds = mixed / 64 % 5;
            if late {
                this.sleep(Duration::from_nanos(mixed % 90_000)).await;
                if mixed.is_multiple_of(3) {
                    members.done_inserting().await;
                } else {
                    drop(members.done_inserting());
                }
                if mixed.is_multiple_of(2) {
                    members.at(slot).go(rounds, words, sink, true);
                    continue;
                }
                // it leaves when it takes part
                members.done_inserting().await;
                members.at(slot).go(rounds, words, sink, true);
            } else {
                members.at(slot).go(rounds, words, sink, true);
                this.sleep(Duration::from_nanos(mixed % 90_000)).await;
            }
        }
        members.done_inserting().await;
    }
}

fn each_counts_once(seeds: u64, words: usize, late: bool) {
    on(&[2, 3, 4, 6, 12], 0..seeds, move |job| async move {
        let (members, lists, fillers) = (job.sparse::<Member>(), job.array::<Lists>(1, ()), job.group::<Filler>(()));
        let count = SLOTS as i64 / i64::from(job.pes());
        fillers.all().fill(members, lists, count, words, late).done().await;
        job.quiescence().await;
        let heard = lists.at(0).heard().await;
        // Each contribution is in one reduction, and all agree on the reductions' numbers.
        let mut of = vec![Vec::new(); SLOTS];
        for (n, sums) in heard.iter().enumerate() {
            for (slot, value) in sums[..SLOTS].iter().enumerate().filter(|(_, value)| **value > 0) {
                let j = value.trailing_zeros() / 8;
                assert_eq!(*value, 1 << (8 * j), "slot {slot} twice in one");
                of[slot].push((j as i64, n));
            }
        }
        for (slot, of) in of.iter_mut().enumerate() {
            of.sort_unstable();
            let mixed = (slot as u64 + 77).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let rounds = (mixed / 64 % 5) as i64;
            let all = of.iter().map(|(j, _)| *j).eq(0..rounds);
            assert!(all, "slot {slot} rounds {rounds}: {of:?} of {}", heard.len());
        }
        let mut number: Vec<Option<(usize, i64)>> = vec![None; heard.len()];
        for start in 0..heard.len() {
            if number[start].is_some() {
                continue;
            }
            number[start] = Some((start, 0));
            let mut todo = vec![start];
            while let Some(n) = todo.pop() {
                let (root, at) = number[n].unwrap();
                for of in &of {
                    let Some((j, _)) = of.iter().find(|(_, m)| *m == n) else { continue };
                    for (j2, m) in of {
                        let want = (root, at + j2 - j);
                        match number[*m] {
                            None => {
                                number[*m] = Some(want);
                                todo.push(*m);
                            }
                            Some(known) => assert_eq!(known, want, "numbers differ"),
                        }
                    }
                }
            }
        }
        let mut numbers: Vec<_> = number.into_iter().flatten().collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "one reduction in two");
    });
}

#[test]
fn each_contribution_is_in_one_reduction_in_random_schedules() {
    each_counts_once(120, 60, true);
    each_counts_once(120, 60, false);
}

#[test]
fn each_large_contribution_is_in_one_reduction_in_random_schedules() {
    each_counts_once(15, 20_000, true);
}
