//! Sections: some elements of a collection, with an identifier of their own.

use std::cell::Cell;
use std::rc::Rc;

use charm4rs::prelude::*;
use charm4rs::reduce::Sink;
use charm4rs::testing::{LockstepJob, SimOptions, simulate};

use crate::{law, shapes, simulated};

type Piece = Collection<Member>;

/// Records its calls, and contributes as it is told.
struct Member {
    calls: u64,
    heard: Vec<i64>,
}

#[chare(index = i64)]
impl Member {
    #[init]
    fn new() -> Self {
        Self { calls: 0, heard: Vec::new() }
    }
    #[entry]
    fn call(&mut self, cx: &mut Cx<Self>) -> i64 {
        self.calls += 1;
        cx.index()
    }
    #[entry]
    fn calls(&self) -> u64 {
        self.calls
    }
    #[entry]
    fn hear(&mut self, what: i64) {
        self.heard.push(what);
    }
    #[entry]
    fn heard(&self) -> Vec<i64> {
        self.heard.clone()
    }
    #[entry]
    fn give(&self, cx: &mut Cx<Self>, to: Piece, sink: Sink<Vec<(i64, ())>>) {
        cx.contribute_in(&to, (cx.index(), ()), reduce::gather, sink);
    }
    #[entry]
    fn sum(&self, cx: &mut Cx<Self>, to: Piece, sink: Sink<i64>) {
        cx.contribute_in(&to, cx.index(), reduce::sum, sink);
    }
    #[entry]
    fn long(&self, cx: &mut Cx<Self>, to: Piece, sink: Promise<Vec<i64>>) {
        cx.contribute_in(&to, vec![cx.index(); 20_000], reduce::sum, sink);
    }
    /// Contributes to all of these in turn, many times.
    #[entry]
    async fn rounds(this: This<Self>, pieces: Vec<Piece>, rounds: i64) -> Vec<i64> {
        let mut sums = Vec::new();
        for round in 0..rounds {
            let waiting: Vec<_> =
                pieces.iter().map(|to| this.allreduce_in(to, this.index() + round, reduce::sum)).collect();
            sums.extend(join_all(waiting).await);
        }
        sums
    }
    #[entry]
    fn once_then_leave(&self, cx: &mut Cx<Self>, times: usize, (piece, to): (Piece, Vec<Promise<i64>>)) {
        for to in to.into_iter().take(times) {
            cx.contribute_in(&piece, 1, reduce::sum, to);
        }
        cx.destroy();
    }
    #[entry]
    fn leave(&self, cx: &mut Cx<Self>) {
        cx.destroy();
    }
    /// Calls a section, from this element's PE.
    #[entry]
    async fn relay(this: This<Self>, piece: Piece) -> Vec<i64> {
        let values = piece.all().call().await;
        piece.all().call().done().await;
        assert!(piece.is_section() && this.collection() == piece.whole());
        values
    }
    #[entry]
    async fn cut(this: This<Self>, piece: Piece, indices: Vec<i64>) -> (Vec<i64>, i64) {
        let part = piece.section(indices);
        let values = part.all().call().await;
        (values, piece.at(this.index()).call().await)
    }
    #[entry]
    fn double(&self, row: Payload<i64>) -> Payload<i64> {
        row.iter().map(|x| 2 * x).collect()
    }
    #[entry]
    async fn relay_payload(_: This<Self>, piece: Piece) -> bool {
        let row: Payload<i64> = (0..5_000).collect();
        let rows = piece.all().double(row).await;
        rows.len() == 3 && rows.iter().all(|row| row[4_999] == 9_998)
    }
    #[entry]
    fn fail_at(&self, cx: &mut Cx<Self>, index: i64) {
        assert!(cx.index() != index, "number {index} fails");
    }
    #[entry]
    async fn relay_failure(_: This<Self>, piece: Piece) -> String {
        let done = piece.all().fail_at(7).done().checked().await.unwrap_err();
        let called = piece.all().fail_at(7).checked().await.unwrap_err();
        assert_eq!(done.to_string(), called.to_string());
        called.to_string()
    }
    #[entry]
    async fn wait_for_ever(this: This<Self>) {
        this.next_never().await;
    }
    #[entry]
    fn never(&self);
    #[entry]
    fn number(&self, to: Piece, first: i64) {
        (first..first + 5).for_each(|n| _ = to.all().hear(n));
    }
}

fn members(job: &Job, count: i64) -> Piece {
    job.array::<Member>(count, ())
}

#[test]
fn a_call_of_a_section_reaches_each_of_its_elements_once_and_no_other() {
    law(|job| async move {
        let all = members(&job, 20);
        let third = all.section((0..20).rev().filter(|i| i % 3 == 0).chain([3, 3]));
        assert_eq!(third.all().call().await, [0, 3, 6, 9, 12, 15, 18]);
        third.all().call().done().await;
        third.created().await;
        third.all().call();
        job.quiescence().await;
        let expected: Vec<u64> = (0..20).map(|i| if i % 3 == 0 { 3 } else { 0 }).collect();
        assert_eq!(all.all().calls().await, expected);
        assert_eq!(third.at(4).call().await, 4);
        assert!(third.try_at(20).is_none() && all.section([]).all().call().await.is_empty());
    });
}

#[test]
fn a_section_can_be_called_and_cut_by_pes_that_do_not_know_it() {
    simulated(150, |job| async move {
        let all = members(&job, 12);
        let piece = all.section([1, 5, 8, 11]);
        let (relayed, cut) = (all.all().relay(piece).call(), all.at(10).cut(piece, vec![8, 5]).call());
        assert_eq!(relayed.await, vec![vec![1, 5, 8, 11]; 12]);
        assert_eq!(cut.await, (vec![5, 8], 10));
        let calls = all.all().calls().await;
        assert_eq!((calls[1], calls[5], calls[10], calls[0]), (24, 25, 1, 0));
    });
}

#[test]
fn payloads_and_failures_of_a_section_come_back_to_a_caller_on_any_pe() {
    law(|job| async move {
        let all = members(&job, 10);
        let piece = all.section([2, 7, 9]);
        assert_eq!(all.all().relay_payload(piece).await, [true; 10]);
        for text in all.all().relay_failure(piece).await {
            assert!(text.contains("number 7 fails") && text.contains("fail_at"), "{text}");
        }
    });
}

#[test]
fn a_section_is_created_on_any_pe_also_outside_of_a_task() {
    for job in [LockstepJob::threads(4), LockstepJob::processes(4)] {
        let job = job.unwrap();
        let all = job.on(Pe(0), |job| members(&job, 8));
        // PE 2 may not know the array yet.
        let piece = job.on(Pe(2), |_| all.section([1, 6, 7]));
        for pe in 0..4 {
            job.on(Pe(pe), |_| _ = piece.all().call());
        }
        job.settle().unwrap();
        let calls = job.on(Pe(3), |_| all.all().calls().call());
        job.settle().unwrap();
        let done = Rc::new(Cell::new(false));
        let seen = done.clone();
        job.on(Pe(3), |job| {
            job.spawn(async move {
                assert_eq!(calls.await, [0, 4, 0, 0, 0, 0, 4, 4]);
                seen.set(true);
            });
        });
        job.settle().unwrap();
        assert!(done.get());
    }
}

#[test]
fn calls_of_a_section_arrive_in_the_order_in_which_they_were_made() {
    simulated(150, |job| async move {
        let all = members(&job, 9);
        let piece = all.section([0, 4, 8]);
        for first in 0..4 {
            all.at(8).number(piece, first * 5);
        }
        job.quiescence().await;
        assert_eq!(piece.all().heard().await, vec![(0..20).collect::<Vec<_>>(); 3]);
    });
}

#[test]
fn reductions_of_overlapping_sections_and_of_the_whole_do_not_mix() {
    simulated(100, |job| async move {
        let all = members(&job, 16);
        let (even, low) = (all.section((0..16).step_by(2)), all.section(0..8));
        let own = |i: i64| {
            let pieces: Vec<Piece> = [(true, all), (i % 2 == 0, even), (i < 8, low)]
                .map(|(is_in, piece)| is_in.then_some(piece))
                .into_iter()
                .flatten()
                .collect();
            // In another order in each element.
            if i % 3 == 0 { pieces.into_iter().rev().collect() } else { pieces }
        };
        let replies: Vec<_> = (0..16).map(|i| all.at(i).rounds(own(i), 10).call()).collect();
        for (i, sums) in (0..).zip(join_all(replies).await) {
            let expected = (0..10).flat_map(|round| {
                own(i).into_iter().map(move |piece| {
                    if piece == all {
                        120 + 16 * round
                    } else if piece == even {
                        56 + 8 * round
                    } else {
                        28 + 8 * round
                    }
                })
            });
            assert_eq!(sums, expected.collect::<Vec<_>>(), "of element {i}");
        }
    });
}

#[test]
fn a_sections_result_goes_to_a_promise_an_entry_method_or_a_section() {
    law(|job| async move {
        let all = members(&job, 10);
        let (piece, others) = (all.section([2, 3, 7, 9]), all.section([0, 9]));
        let ((to, gathered), (large, long)) = (job.promise(), job.promise());
        piece.all().give(piece, to.into());
        piece.all().sum(piece, all.at(5).hear_sink());
        piece.all().sum(piece, others.all().hear_sink());
        piece.all().long(piece, large);
        assert_eq!(gathered.await, [2, 3, 7, 9].map(|i| (i, ())));
        assert_eq!(long.await, vec![21; 20_000]);
        job.quiescence().await;
        let expected: Vec<Vec<i64>> = (0..10).map(|i| if [0, 5, 9].contains(&i) { vec![21] } else { vec![] }).collect();
        assert_eq!(all.all().heard().await, expected);
    });
}

#[test]
fn a_section_that_its_elements_get_as_an_argument_first_is_reduced() {
    simulated(200, |job| async move {
        let all = members(&job, 12);
        let piece = all.section([3, 4, 11]);
        let (to, sums): (Vec<_>, Vec<_>) = (0..3).map(|_| job.promise()).unzip();
        for to in to {
            // One by one, not through the section.
            for i in [3, 4, 11] {
                all.at(i).sum(piece, Sink::from(to));
            }
        }
        assert_eq!(join_all(sums).await, [18; 3]);
    });
}

#[test]
fn a_destroyed_element_is_in_no_section_and_counts_where_it_contributed() {
    simulated(200, |job| async move {
        let all = members(&job, 10);
        let (piece, other) = (all.section(1..9), all.section([0, 1, 2]));
        let (to, sums): (Vec<_>, Vec<_>) = (0..4).map(|_| job.promise::<i64>()).unzip();
        for i in 1..8 {
            all.at(i).once_then_leave(usize::try_from(i % 4).unwrap(), (piece, to.clone()));
        }
        all.at(8).once_then_leave(4, (piece, to.clone()));
        // Elements 1, 5 give one part, 2, 6 two, 3, 7 three, 4 none, 8 four.
        assert_eq!(join_all(sums).await, [7, 5, 3, 1]);
        assert!(piece.all().call().await.is_empty());
        assert_eq!(other.all().call().await, [0]);
        let (to, sum) = job.promise();
        other.all().sum(other, Sink::from(to));
        assert_eq!(sum.await, 0);
        assert_eq!(all.section([0, 3, 9]).all().call().await, [0, 9]);
    });
}

#[test]
fn a_section_of_a_sparse_array_waits_until_the_array_is_closed() {
    simulated(150, |job| async move {
        let all = job.sparse::<Member>();
        let piece = all.section([-7, 3, 40]);
        let early = piece.all().call().call();
        for i in [3, 40, 5, -7, -1] {
            match i {
                5 => all.insert(i, ()),
                _ => all.insert_on(Pe(u32::try_from(i.abs()).unwrap() % job.pes()), i, ()),
            }
        }
        let closed = all.done_inserting();
        assert_eq!(early.await, [-7, 3, 40]);
        closed.await;
        let (to, sum) = job.promise();
        piece.all().sum(piece, Sink::from(to));
        assert_eq!(sum.await, 36);
        for i in [40, 5] {
            all.at(i).leave().done().await;
        }
        assert_eq!(all.section([40, 5, 3]).all().call().await, [3]);
    });
}

/// An index type of the user.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
enum Spot {
    Corner(u8),
    Middle,
}

struct Marked;

#[chare(index = Spot)]
impl Marked {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn spot(&self, cx: &mut Cx<Self>) -> Spot {
        cx.index()
    }
}

struct Local;

#[chare(index = u32)]
impl Local {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn pe(&self, cx: &mut Cx<Self>) -> u32 {
        cx.pe().0
    }
}

#[test]
fn groups_and_arrays_of_any_index_have_sections() {
    law(|job| async move {
        let marked = job.sparse::<Marked>();
        let spots = [Spot::Corner(0), Spot::Corner(1), Spot::Corner(2), Spot::Middle];
        spots.into_iter().for_each(|spot| marked.insert(spot, ()));
        marked.done_inserting().await;
        let some = marked.section([Spot::Middle, Spot::Corner(1)]);
        assert_eq!(some.all().spot().await, [Spot::Corner(1), Spot::Middle]);
        let group = job.group::<Local>(());
        let odd: Vec<u32> = (0..job.pes()).filter(|pe| pe % 2 == 1).collect();
        assert_eq!(group.section(odd.clone()).all().pe().await, odd);
    });
}

#[test]
fn a_section_with_invalid_elements_is_refused_where_it_is_created() {
    for (what, ask) in [
        ("Member has no element 12: its extent is 12", (|all| all.section([3, 12])) as fn(Piece) -> Piece),
        ("inserted only into whole arrays", |all| {
            all.section([1]).insert(2, ());
            all
        }),
    ] {
        let failure = simulate(&SimOptions::new(3, 1), move |job| async move {
            let all = members(&job, 12);
            all.created().await;
            let _ = ask(all);
        });
        let failure = failure.unwrap_err();
        assert!(failure.what.contains(what), "{failure}");
    }
}

#[test]
fn an_index_that_a_closed_array_lacks_ends_the_job_with_its_name() {
    for options in shapes(12) {
        let outcome = simulate(&options, |job| async move {
            let all = job.sparse::<Member>();
            all.insert(1, ());
            let piece = all.section([1, 77]);
            all.done_inserting().await;
            piece.created().await;
        });
        let failure = outcome.unwrap_err();
        assert!(failure.what.contains("element 77, which does not exist"), "{failure}");
    }
}

#[test]
fn a_contribution_to_a_section_that_the_element_is_not_in_ends_the_job() {
    for options in shapes(48) {
        let outcome = simulate(&options, |job| async move {
            let all = members(&job, 30);
            let piece = all.section([0, 1]);
            let (to, sum) = job.promise();
            all.at(29).sum(piece, Sink::from(to));
            sum.await;
        });
        let failure = outcome.unwrap_err();
        assert!(failure.what.contains("section that it is not in"), "{failure}");
    }
}

#[test]
fn a_deadlock_names_each_element_once_however_many_sections_it_is_in() {
    let outcome = simulate(&SimOptions::new(3, 1), |job| async move {
        let all = members(&job, 3);
        let piece = all.section([1, 2]).section([2]);
        piece.all().wait_for_ever().done().await;
    });
    let text = outcome.unwrap_err().what;
    assert!(text.contains("Member[2].wait_for_ever waits for a call of its never"), "{text}");
    assert!(text.matches("Member[2]").count() == 1 && !text.contains("more"), "{text}");
}

#[test]
fn a_call_of_a_section_visits_only_the_pes_that_have_elements_of_it() {
    let steps = |in_section: bool, calls: usize| {
        let outcome = simulate(&SimOptions::new(64, 7), move |job| async move {
            let all = members(&job, 64);
            let piece = all.section([3, 30, 63]);
            for _ in 0..calls {
                if in_section {
                    assert_eq!(piece.all().call().await, [3, 30, 63]);
                } else {
                    all.all().call().done().await;
                }
            }
        });
        outcome.unwrap();
        outcome.steps
    };
    let a_call = |in_section| (steps(in_section, 300) - steps(in_section, 100)) / 200;
    let (section, whole) = (a_call(true), a_call(false));
    println!("steps of PEs for each call: {section} of a section, {whole} of the whole");
    // The creator and three others, there and back.
    assert!(section < 40 && whole > 2 * 63, "{section} and {whole}");
}
