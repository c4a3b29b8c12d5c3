//! Failures, and the callers that get their errors.

use charm4rs::prelude::*;
use charm4rs::testing::{Failure, simulate, threads};
use charm4rs::{IndexMap, Places};
use serde::{Deserializer, Serializer};

use crate::{law, shapes};

struct Fragile;

#[chare(index = u32)]
impl Fragile {
    #[init]
    fn new(fails: u32, cx: u32) -> Self {
        assert!(fails != cx, "no such chare");
        Self
    }
    #[entry]
    fn fine(&self) -> u32 {
        1
    }
    #[entry]
    fn breaks(&self, cx: &mut Cx<Self>, text: String) -> u32 {
        panic!("it is {text}, on {}", cx.index())
    }
    #[entry]
    async fn breaks_later(this: This<Self>) {
        this.sleep(std::time::Duration::from_micros(50)).await;
        panic!("later")
    }
    #[entry]
    async fn asks(this: This<Self>, depth: u32) -> u32 {
        let next = this.collection().at((this.index() + 1) % 3);
        match depth {
            0 => next.breaks("deep").await,
            _ => next.asks(depth - 1).await,
        }
    }
    #[entry]
    fn stubborn(&self, _x: Stubborn) -> u8 {
        3
    }
    #[entry]
    fn gives_stubborn(&self) -> Stubborn {
        Stubborn(false)
    }
    #[entry]
    fn half(&self, cx: &mut Cx<Self>) -> u32 {
        assert!(cx.index() != 1, "not me");
        cx.index()
    }
    #[entry]
    fn exits(&self, cx: &mut Cx<Self>, code: u8) {
        cx.job().exit(code);
    }
}

/// A value that serde cannot write (false) or read (true).
struct Stubborn(bool);

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 { serializer.serialize_u8(7) } else { Err(serde::ser::Error::custom("will not be written")) }
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("will not be read"))
    }
}

#[test]
fn a_panic_is_the_error_of_the_waiting_caller_and_the_job_continues() {
    law(|job| async move {
        let all = job.array::<Fragile>(3, (0, 1));
        let error = all.at(2).breaks("broken").checked().await.unwrap_err();
        let CallError::Panicked { chare, index, entry, pe, message } = &error else { panic!("{error}") };
        assert!(chare.ends_with("Fragile"));
        assert_eq!((index.as_str(), entry.as_str()), ("2", "breaks"));
        assert!(pe.0 < job.pes());
        assert!(message.contains("it is broken, on 2") && message.contains("failures.rs:"), "{message}");
        let error = all.at(0).breaks_later().done().checked().await.unwrap_err();
        assert!(error.to_string().contains("[0].breaks_later panicked") && error.to_string().contains("later"));
        assert_eq!(all.at(2).fine().await, 1, "the chare lives on");
    });
}

#[test]
fn an_error_passes_through_a_chain_of_calls_with_its_cause() {
    law(|job| async move {
        let all = job.array::<Fragile>(3, (0, 1));
        let error = all.at(0).asks(5).checked().await.unwrap_err().to_string();
        assert!(error.contains("[0].breaks panicked") && error.contains("it is deep, on 0"), "{error}");
    });
}

#[test]
fn one_panic_among_many_is_the_error_of_a_broadcast() {
    law(|job| async move {
        let all = job.array::<Fragile>(4, (0, 1));
        let values = all.all().half().checked().await.unwrap_err().to_string();
        let done = all.all().half().done().checked().await.unwrap_err().to_string();
        assert!(values.contains("[1].half panicked") && done.contains("not me"), "{values}, {done}");
        assert_eq!(all.all().fine().await, [1; 4]);
    });
}

/// A job that must fail, on threads and simulated.
fn failure<F: Future<Output: charm4rs::MainResult> + 'static>(job: impl Fn(Job) -> F, check: impl Fn(Failure)) {
    for pes in [1, 2, 4] {
        check(threads(pes, &job).unwrap_err());
    }
    for options in shapes(18) {
        check(simulate(&options, &job).unwrap_err());
    }
}

#[test]
fn a_panic_without_a_waiting_caller_ends_the_job_with_a_full_report() {
    let says = |parts: &'static [&'static str]| {
        move |failure: Failure| {
            assert_eq!(failure.code, 1);
            assert!(parts.iter().all(|part| failure.what.contains(part)), "{failure}");
        }
    };
    failure(
        |job| async move {
            job.array::<Fragile>(5, (0, 1)).at(4).breaks("alone");
            job.promise::<()>().1.await;
        },
        says(&["Fragile[4].breaks panicked on PE ", "it is alone, on 4", "failures.rs:"]),
    );
    failure(
        |job| async move {
            job.array::<Fragile>(5, (0, 1)).all().half();
            job.promise::<()>().1.await;
        },
        says(&["Fragile[1].half panicked on PE ", "not me"]),
    );
    failure(
        |job| async move {
            job.array::<Fragile>(5, (1, 1)).created().await;
            job.promise::<()>().1.await;
        },
        says(&["constructor of ", "Fragile[", "no such chare"]),
    );
    failure(
        |job| async move { assert!(job.pes() == 0, "main fails") },
        says(&["main panicked: main fails at chare/tests/laws/failures.rs:"]),
    );
    failure(
        |_| async { assert_eq!(1 + 1, 3, "arithmetic") },
        says(&[
            "main panicked: assertion `left == right` failed: arithmetic, left: 2, right: 3 at chare/tests/laws/failures.rs:",
        ]),
    );
    failure(|_| async { Err::<(), _>("main says no") }, says(&["main says no"]));
    failure(
        |job| async move {
            job.spawn(async { panic!("a task fails") });
            job.promise::<()>().1.await;
        },
        says(&["a task", "a task fails"]),
    );
}

#[test]
fn an_index_outside_of_a_bounded_array_is_refused_where_it_is_named() {
    // The location of the panic is the caller's line, in this file.
    let refused = |what: &'static str| {
        move |failure: Failure| {
            assert!(
                failure.what.contains(what) && failure.what.contains(" at chare/tests/laws/failures.rs:"),
                "{failure}"
            );
        }
    };
    let array = |job: Job| job.array::<Fragile>(5, (0, 1));
    failure(|job| async move { _ = array(job).at(5) }, refused("Fragile has no element 5: its extent is 5"));
    failure(|job| async move { array(job).insert(1, (0, 1)) }, refused("is not a sparse array: its extent is 5"));
    let group = |job: Job| job.group::<Fragile>((0, 1));
    failure(|job| async move { _ = group(job).on(Pe(job.pes())) }, refused("one element for each PE"));
}

/// Places elements on PEs that do not exist, from the third element on.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Astray;

impl IndexMap<u32> for Astray {
    fn pe(&self, index: &u32, places: &Places) -> Pe {
        Pe(if *index < 3 { 0 } else { places.pes + index })
    }
}

struct Lost;

#[chare(index = u32, map = Astray)]
impl Lost {
    #[init]
    fn new(_: NotDefault) -> Self {
        Self
    }
    #[entry]
    fn fine(&self) {}
}

/// A constructor's argument without `Default`.
#[derive(Serialize, Deserialize)]
struct NotDefault;

#[test]
fn a_map_that_returns_an_invalid_pe_is_refused_with_the_map_the_index_the_pe_and_the_count() {
    let refused = |index: u32| {
        move |failure: Failure| {
            let says = |part: &str| failure.what.contains(part);
            assert!(failure.code == 1 && says("the map ") && says("failures::Astray places "), "{failure}");
            assert!(says(&format!("Lost[{index}] on PE ")) && says("does not exist: the job has "), "{failure}");
        }
    };
    failure(
        |job| async move {
            job.array::<Lost>(4, NotDefault).created().await;
        },
        refused(3),
    );
    failure(
        |job| async move {
            let lost = job.sparse::<Lost>();
            lost.insert(7, NotDefault);
            lost.done_inserting().await;
        },
        refused(7),
    );
    failure(
        |job| async move {
            let lost = job.sparse::<Lost>();
            lost.done_inserting().await;
            lost.at(9).fine().done().await;
        },
        refused(9),
    );
}

#[test]
fn a_sparse_array_can_have_chares_whose_constructor_arguments_have_no_default() {
    law(|job| async move {
        let all = job.sparse::<Lost>();
        (0..3).for_each(|index| all.insert(index, NotDefault));
        all.done_inserting().await;
        assert_eq!(all.all().fine().await.len(), 3);
    });
}

#[test]
#[should_panic(expected = "only inside a job")]
fn a_job_function_panics_outside_of_a_job() {
    let _ = Job::current();
}

#[test]
fn values_that_serde_refuses_are_errors_of_their_calls() {
    // One PE in each process, so that values are serialized.
    for options in shapes(60).filter(|options| options.ppn == 1 && options.pes > 1) {
        let outcome = simulate(&options, |job| async move {
            let all = job.group::<Fragile>((0, 1));
            let far = all.on(Pe(job.pes() - 1));
            all.created().await;
            for error in [
                far.stubborn(Stubborn(false)).checked().await.err(),
                far.stubborn(Stubborn(true)).checked().await.err(),
                far.gives_stubborn().checked().await.err(),
                all.all().stubborn(Stubborn(false)).done().checked().await.err(),
                all.all().stubborn(Stubborn(true)).done().checked().await.err(),
                all.all().gives_stubborn().checked().await.err(),
            ] {
                let error = error.expect("it cannot have worked");
                assert!(matches!(error, CallError::Wire { .. }), "{error}");
                assert!(error.to_string().contains("stubborn") || error.to_string().contains("a result"), "{error}");
            }
            assert_eq!(far.fine().await, 1);
        });
        assert_eq!(outcome.unwrap(), 0);
    }
}

#[test]
fn exit_on_any_pe_ends_the_job_with_its_code() {
    for pes in [1, 2, 4] {
        for pe in 0..pes {
            let code = threads(pes, |job| async move {
                job.group::<Fragile>((0, 1)).on(Pe(pe)).exits(40 + u8::try_from(pe).unwrap());
                job.promise::<()>().1.await;
            });
            assert_eq!(code, Ok(40 + i32::try_from(pe).unwrap()));
        }
    }
}

#[test]
fn exits_on_several_pes_at_once_end_the_job_with_one_of_their_codes() {
    for options in shapes(200) {
        let outcome = simulate(&options, |job| async move {
            let all = job.group::<Fragile>((0, 1));
            all.created().await;
            all.all().exits(7);
            job.promise::<()>().1.await;
        });
        assert_eq!(outcome.unwrap(), 7);
    }
}

#[test]
fn a_job_that_waits_for_itself_is_a_deadlock_that_names_its_waiting_tasks() {
    for options in shapes(12) {
        let failure = simulate(&options, |job| async move { job.promise::<()>().1.await }).unwrap_err();
        assert_eq!(failure.code, 124);
        assert!(
            failure.what.contains("deadlock") && failure.what.contains("(PE 0: main waits for a promise)"),
            "{failure}"
        );
    }
}

/// Asserts the report of a job in a deadlock.
fn deadlock<F: Future<Output: charm4rs::MainResult> + 'static>(job: impl Fn(Job) -> F, says: &str) {
    for options in shapes(12) {
        let failure = simulate(&options, &job).unwrap_err();
        assert!(failure.code == 124 && failure.what.contains(says), "{says:?} is not in {failure}");
    }
}

/// Contributes on request.
struct Giver;

#[chare(index = u32)]
impl Giver {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn gives(&self, cx: &mut Cx<Self>, to: Promise<u64>) {
        cx.contribute((), reduce::count, to);
    }
    #[entry]
    fn gives_in(&self, cx: &mut Cx<Self>, section: charm4rs::Collection<Self>, to: Promise<u64>) {
        cx.contribute_in(&section, (), reduce::count, to);
    }
}

#[test]
fn a_deadlock_report_names_the_elements_that_a_reduction_lacks() {
    deadlock(
        |job| async move {
            let givers = job.array::<Giver>(8, ());
            let (to, first) = job.promise();
            givers.all().gives(to);
            assert_eq!(first.await, 8);
            let (to, second) = job.promise();
            for giver in (0..8).filter(|giver| *giver != 3) {
                givers.at(giver).gives(to);
            }
            second.await;
        },
        "reduction 2 of laws::failures::Giver lacks laws::failures::Giver[3]",
    );
    deadlock(
        |job| async move {
            let givers = job.array::<Giver>(9, ());
            let (to, count) = job.promise();
            givers.at(8).gives(to);
            count.await;
        },
        " and 4 more",
    );
    deadlock(
        |job| async move {
            let givers = job.array::<Giver>(9, ());
            let some = givers.section([1, 2, 7]);
            let (to, count) = job.promise();
            some.at(2).gives_in(some, to);
            some.at(7).gives_in(some, to);
            count.await;
        },
        "reduction 1 of a section of laws::failures::Giver lacks laws::failures::Giver[1]",
    );
}

#[test]
fn a_deadlock_report_says_that_calls_wait_for_the_end_of_insertions() {
    deadlock(
        |job| async move {
            let givers = job.sparse::<Giver>();
            givers.insert(1, ());
            givers.at(2).gives(job.promise().0).done().await;
        },
        "calls of laws::failures::Giver wait (1), one of them for laws::failures::Giver[2], until the array is closed",
    );
    deadlock(
        |job| async move {
            let givers = job.sparse::<Giver>();
            givers.insert(1, ());
            givers.all().gives(job.promise().0).done().await;
        },
        "until the array is closed: `done_inserting` has not completed",
    );
}

#[test]
fn a_deadlock_report_says_that_an_empty_collection_has_no_contributors() {
    deadlock(
        |job| async move {
            let (to, count) = job.promise();
            job.array::<Giver>(0, ()).all().gives(to);
            count.await;
        },
        "laws::failures::Giver has no elements: its reductions have no contributors",
    );
}
