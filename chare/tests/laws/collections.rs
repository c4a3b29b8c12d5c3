//! How chares are created, found, and destroyed.

use charm4rs::prelude::*;
use charm4rs::{IndexMap, Places};

use crate::{law, simulated};

/// Answers where it is, and creates others.
struct Cell {
    made_with: u64,
}

#[chare(index = i64)]
impl Cell {
    #[init]
    fn new(made_with: u64) -> Self {
        Self { made_with }
    }
    #[entry]
    fn who(&self, cx: &mut Cx<Self>) -> (i64, Pe, u64) {
        (cx.index(), cx.pe(), self.made_with)
    }
    #[entry]
    fn total(&self, cx: &mut Cx<Self>, to: Promise<i64>) {
        cx.contribute(cx.index(), reduce::sum, to);
    }
    #[entry]
    fn leave(&self, cx: &mut Cx<Self>) {
        cx.destroy();
    }
    #[entry]
    async fn wait_for_ever(this: This<Self>) {
        this.next_never().await;
    }
    #[entry]
    fn never(&self);
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
    fn insert(&self, cx: &mut Cx<Self>, cells: charm4rs::Collection<Cell>, count: i64) {
        let first = i64::from(cx.index()) * count;
        for i in first..first + count {
            match i % 3 {
                0 => cells.insert(-i, i as u64),
                _ => cells.insert_on(Pe(u32::try_from(i).unwrap() % cx.job().pes()), -i, i as u64),
            }
        }
    }
}

#[test]
fn a_sparse_array_is_filled_from_all_pes_counted_and_reduced() {
    simulated(150, |job| async move {
        let cells = job.sparse::<Cell>();
        let inserters = job.group::<Inserter>(());
        let early = cells.at(-1).who().call();
        inserters.all().insert(cells, 5).done().await;
        cells.done_inserting().await;
        let count = i64::from(job.pes()) * 5;
        assert_eq!(early.await, (-1, Pe(1 % job.pes()), 1));
        let all = cells.all().who().await;
        assert_eq!(all.len() as i64, count);
        assert!(all.is_sorted() && all.iter().all(|(i, _, with)| -i == *with as i64));
        for _ in 0..3 {
            let (promise, sum) = job.promise();
            cells.all().total(promise);
            assert_eq!(sum.await, -count * (count - 1) / 2);
        }
    });
}

#[test]
fn a_sparse_array_may_be_closed_while_insertions_are_on_their_way() {
    simulated(60, |job| async move {
        let cells = job.sparse::<Cell>();
        for i in 0..40 {
            cells.insert(i, 1);
        }
        let (a, b) = (cells.done_inserting(), cells.created());
        a.await;
        b.await;
        cells.done_inserting().await; // again: there is nothing left to do
        assert_eq!(cells.all().who().await.len(), 40);
        let (promise, sum) = job.promise();
        cells.all().total(promise);
        assert_eq!(sum.await, 780);
    });
}

#[test]
fn an_empty_sparse_array_can_be_closed() {
    law(|job| async move {
        let cells = job.sparse::<Cell>();
        cells.done_inserting().await;
        assert!(cells.all().who().await.is_empty());
    });
}

#[test]
fn elements_destroyed_before_a_sparse_array_is_closed_are_not_waited_for() {
    simulated(100, |job| async move {
        let cells = job.sparse::<Cell>();
        for i in 0..12 {
            cells.insert_on(Pe(u32::try_from(i * 5).unwrap() % job.pes()), i, 1);
        }
        let (first, sum) = job.promise();
        for i in 0..12 {
            cells.at(i).total(first);
        }
        for i in 0..6 {
            cells.at(i).leave().done().await;
        }
        cells.done_inserting().await;
        assert_eq!(sum.await, 66);
        let (promise, sum) = job.promise();
        cells.all().total(promise);
        assert_eq!(sum.await, 6 + 7 + 8 + 9 + 10 + 11);
    });
}

#[test]
fn calls_of_elements_that_a_closed_array_does_not_have_are_errors() {
    simulated(60, |job| async move {
        let cells = job.sparse::<Cell>();
        cells.insert(1, 1);
        cells.insert_on(Pe(job.pes() - 1), 2, 1);
        let early = cells.at(9).who().checked();
        cells.done_inserting().await;
        let missing = |error: CallError| {
            let text = error.to_string();
            assert!(matches!(error, CallError::NoSuchElement { .. }), "{text}");
            assert!(text.contains("Cell[") && text.contains("who"), "{text}");
        };
        missing(early.await.unwrap_err());
        missing(cells.at(3).who().checked().await.unwrap_err());
        for i in [1, 2] {
            cells.at(i).leave().done().await;
            missing(cells.at(i).who().checked().await.unwrap_err());
        }
    });
}

#[test]
fn a_call_that_its_own_pe_queued_before_the_chare_was_destroyed_fails() {
    law(|job| async move {
        let cells = job.array::<Cell>(2, 0);
        cells.created().await;
        let cell = cells.at(0); // PE 0 has the first block, and `main`
        cell.leave();
        let error = cell.who().checked().await.unwrap_err();
        assert!(matches!(&error, CallError::NoSuchElement { entry, .. } if entry == "who"), "{error}");
    });
}

#[test]
fn an_array_that_is_half_destroyed_still_works() {
    simulated(80, |job| async move {
        let cells = job.array::<Cell>(10, 0);
        for i in [9, 3, 4, 8, 5] {
            cells.at(i).leave();
        }
        job.quiescence().await;
        let left: Vec<_> = cells.all().who().await.into_iter().map(|(i, ..)| i).collect();
        assert_eq!(left, [0, 1, 2, 6, 7]);
        let (promise, sum) = job.promise();
        cells.all().total(promise);
        assert_eq!(sum.await, 16);
        assert!(matches!(cells.at(3).who().checked().await, Err(CallError::NoSuchElement { .. })));
    });
}

#[test]
fn reductions_continue_when_their_root_has_no_elements() {
    simulated(60, |job| async move {
        let cells = job.array::<Cell>(12, 0);
        for i in 0..6 {
            cells.at(i).leave();
        }
        job.quiescence().await;
        let (promise, sum) = job.promise();
        cells.all().total(promise);
        assert_eq!(sum.await, 6 + 7 + 8 + 9 + 10 + 11);
    });
}

#[test]
fn the_caller_of_a_suspended_method_of_a_destroyed_chare_gets_an_error() {
    law(|job| async move {
        let cell = job.array::<Cell>(2, 0).at(1);
        let waits = cell.wait_for_ever().checked();
        cell.leave().done().await;
        let error = waits.await.unwrap_err();
        assert!(matches!(&error, CallError::Dropped { entry, .. } if entry == "wait_for_ever"), "{error}");
    });
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Stripes {
    shift: u32,
}

impl IndexMap<(u8, u8)> for Stripes {
    fn pe(&self, index: &(u8, u8), places: &Places) -> Pe {
        Pe((u32::from(index.1) + self.shift) % places.pes)
    }
}

/// A map that has no default.
#[derive(Clone, Serialize, Deserialize)]
struct Listed(Vec<Pe>);

impl IndexMap<usize> for Listed {
    fn pe(&self, index: &usize, _: &Places) -> Pe {
        self.0[index % self.0.len()]
    }
}

struct Placed(String);

#[chare(index = usize, map = Listed)]
impl Placed {
    #[init]
    fn new(name: String) -> Self {
        Self(name)
    }
    #[entry]
    fn told(&mut self, cx: &mut Cx<Self>, what: String, rows: Payload<u8>) -> (Pe, String) {
        (cx.pe(), format!("{} {what} {}", self.0, rows.len()))
    }
}

#[test]
fn a_map_without_default_places_arrays_and_sparse_ones_and_arguments_are_made_of_what_is_given() {
    law(|job| async move {
        let pes: Vec<_> = (0..job.pes()).rev().map(Pe).collect();
        let sparse = job.sparse_by::<Placed>(Listed(pes.clone()));
        (0..9).for_each(|index| sparse.insert(index, "placed"));
        sparse.done_inserting().await;
        let array = job.array_by::<Placed>(Listed(pes.clone()), 9, "placed".to_owned());
        for cells in [sparse, array] {
            for (index, pe) in (0..9).zip(pes.iter().cycle()) {
                assert_eq!(cells.at(index).told("by", vec![0; 3]).await, (*pe, "placed by 3".to_owned()));
                assert_eq!(
                    cells.at(index).told(format!("{index}"), Payload::zeroed(2)).await.1,
                    format!("placed {index} 2")
                );
            }
        }
    });
}

struct Striped;

#[chare(index = (u8, u8), map = Stripes)]
impl Striped {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn pe(&self, cx: &mut Cx<Self>) -> Pe {
        cx.pe()
    }
}

#[test]
fn elements_are_created_where_the_users_map_says() {
    law(|job| async move {
        let (plain, shifted) =
            (job.array::<Striped>((2, 5), ()), job.array_by::<Striped>(Stripes { shift: 3 }, (2, 5), ()));
        for column in 0..5 {
            let expected = |shift: u32| Pe((u32::from(column) + shift) % job.pes());
            assert_eq!(plain.at((1, column)).pe().await, expected(0));
            assert_eq!(shifted.at((0, column)).pe().await, expected(3));
        }
        let sparse = job.sparse::<Striped>();
        sparse.insert((7, 2), ());
        assert_eq!(sparse.at((7, 2)).pe().await, Pe(2 % job.pes()));
    });
}

/// Creates single chares that create single chares.
struct Node {
    parent: Option<Proxy<Node>>,
    missing: u32,
    leaves: u64,
    done: Option<Promise<u64>>,
}

#[chare]
impl Node {
    #[init]
    fn new(cx: &mut Cx<Self>, depth: u32, parent: Option<Proxy<Node>>, done: Option<Promise<u64>>) -> Self {
        let me = cx.proxy();
        if depth == 0 {
            parent.expect("a leaf has a parent").ready(1);
            cx.destroy();
        } else {
            for _ in 0..3 {
                cx.job().single::<Node>((depth - 1, Some(me), None));
            }
        }
        Self { parent, missing: 3, leaves: 0, done }
    }
    #[entry]
    fn ready(&mut self, cx: &mut Cx<Self>, leaves: u64) {
        self.leaves += leaves;
        self.missing -= 1;
        if self.missing == 0 {
            match (self.parent, self.done) {
                (Some(parent), _) => _ = parent.ready(self.leaves),
                (None, Some(done)) => done.send(self.leaves),
                (None, None) => unreachable!(),
            }
            cx.destroy();
        }
    }
}

#[test]
fn single_chares_create_single_chares_on_all_pes() {
    simulated(60, |job| async move {
        let (promise, leaves) = job.promise();
        job.single::<Node>((4, None, Some(promise)));
        assert_eq!(leaves.await, 81);
    });
}

/// Tells others of chares that it has just created.
struct Gossip;

#[chare(index = u32)]
impl Gossip {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn make(&self, cx: &mut Cx<Self>, others: Group<Gossip>, done: Proxy<Tally>) {
        for pe in 0..cx.job().pes() {
            let fresh = cx.job().single_on::<Fresh>(Pe(pe), ());
            for to in 0..cx.job().pes() {
                others.on(Pe(to)).call(fresh, done);
            }
        }
    }
    #[entry]
    fn call(&self, fresh: Proxy<Fresh>, done: Proxy<Tally>) {
        fresh.hello(done);
    }
}

struct Fresh;

#[chare]
impl Fresh {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn hello(&self, cx: &mut Cx<Self>, done: Proxy<Tally>) {
        done.one();
        let _ = cx;
    }
    #[entry]
    fn go(&self, cx: &mut Cx<Self>) {
        cx.destroy();
    }
}

struct Tally(u64);

#[chare]
impl Tally {
    #[init]
    fn new() -> Self {
        Self(0)
    }
    #[entry]
    fn one(&mut self) {
        self.0 += 1;
    }
    #[entry]
    fn count(&self) -> u64 {
        self.0
    }
}

#[test]
fn a_call_that_overtakes_the_creation_of_its_chare_waits_for_it() {
    simulated(120, |job| async move {
        let tally = job.single::<Tally>(());
        let gossips = job.group::<Gossip>(());
        gossips.all().make(gossips, tally);
        job.quiescence().await;
        assert_eq!(tally.count().await, u64::from(job.pes()).pow(3));
    });
}

#[test]
fn a_call_of_a_destroyed_single_chare_fails() {
    law(|job| async move {
        for pe in 0..job.pes() {
            let fresh = job.single_on::<Fresh>(Pe(pe), ());
            fresh.go().done().await;
            assert!(matches!(fresh.go().checked().await, Err(CallError::NoSuchElement { .. })));
        }
    });
}

#[test]
fn a_group_element_is_used_in_place() {
    law(|job| async move {
        let group = job.group::<Gossip>(());
        group.created().await;
        assert_eq!(group.with_local(|_| 5), Some(5));
    });
}

#[test]
fn an_element_is_used_in_place_where_it_lives() {
    law(|job| async move {
        let cells = job.array::<Cell>(16, 7);
        cells.created().await;
        let homes = cells.all().who().await;
        for (index, home, _) in homes {
            let found = cells.with_local_at(index, |cell| cell.made_with);
            assert_eq!(found, (home == job.pe()).then_some(7), "{index} lives on PE {home}");
        }
    });
}

/// Asks its collection what kind it is.
struct Asker;

#[chare(index = u32)]
impl Asker {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn is_in_its_pes_group(&self, cx: &mut Cx<Self>) -> Option<bool> {
        cx.collection().as_group().map(|group| group.on(cx.pe()) == cx.proxy())
    }
}

#[test]
fn an_element_of_a_group_finds_its_group_and_one_of_an_array_finds_none() {
    law(|job| async move {
        let asked = job.group::<Asker>(()).all().is_in_its_pes_group().await;
        assert_eq!(asked, vec![Some(true); job.pes() as usize]);
        let asked = job.array::<Asker>(job.pes(), ()).all().is_in_its_pes_group().await;
        assert_eq!(asked, vec![None; job.pes() as usize]);
    });
}

#[test]
fn calls_of_all_elements_of_an_empty_collection_complete_and_so_do_promises_of_its_elements() {
    simulated(60, |job| async move {
        let gone = job.array::<Cell>(5, 1);
        gone.all().leave().done().await;
        let (closed, open, whole) = (job.sparse::<Cell>(), job.sparse::<Cell>(), job.array::<Cell>(4, 1));
        closed.done_inserting().await;
        for empty in [job.array::<Cell>(0, 1), closed, gone, whole.section([])] {
            assert!(empty.all().who().await.is_empty());
            empty.all().who().done().await;
            let (to, total) = empty.promise_or(-7);
            empty.all().total(to);
            assert_eq!(total.await, -7);
        }
        // Requested before the array is closed, and given when it is.
        let (_, total) = open.promise_or(-7);
        let closed = open.done_inserting();
        assert_eq!(total.await, -7);
        closed.await;
        let (to, total) = whole.promise_or(-7);
        whole.all().total(to);
        assert_eq!(total.await, 6);
    });
}
