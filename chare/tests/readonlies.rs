//! What every process has before its first chare is made: values that `main` sets, and functions that run once. In a program of its own: what is
//! registered here is part of all its jobs.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use charm4rs::prelude::*;
use charm4rs::testing::{LockstepJob, SimOptions, processes, simulate, threads};
use charm4rs::{MainResult, Readonly};

#[data]
#[derive(Clone, Debug)]
struct Params {
    steps: u32,
    name: String,
    table: Payload<f64>,
}

#[charm4rs::readonly]
static PARAMS: Readonly<Params> = Readonly::new();

#[charm4rs::readonly]
static LIMIT: Readonly<u64> = Readonly::new();

static UNREGISTERED: Readonly<u64> = Readonly::new();

static PREPARED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static PE: Cell<Option<Pe>> = const { Cell::new(None) };
    /// Which function is to fail, in jobs that this thread starts.
    static FAILS: Cell<&'static str> = const { Cell::new("") };
}

#[charm4rs::init_process]
fn prepare_process() {
    assert_ne!(FAILS.get(), "process", "nothing can be prepared");
    PREPARED.fetch_add(1, Ordering::Relaxed);
}

#[charm4rs::init_pe]
fn prepare_pe(pe: Pe) {
    assert_ne!(FAILS.get(), "pe", "nothing can be prepared");
    assert!(PREPARED.load(Ordering::Relaxed) > 0, "a process is prepared before its PEs");
    PE.set(Some(pe));
}

#[charm4rs::init_pe]
fn prepare_pe_more() {
    assert!(PE.get().is_some(), "in the order of their names");
}

struct Reader {
    steps: u32,
    sum: f64,
}

#[chare(index = u32)]
impl Reader {
    #[init]
    fn new() -> Self {
        Self { steps: PARAMS.steps, sum: PARAMS.table.iter().sum() }
    }
    #[entry]
    fn read(&self) -> (u32, f64, String) {
        (self.steps, self.sum, PARAMS.get().name.clone())
    }
    /// Makes others wherever it likes: the messages about them may overtake those from PE 0.
    #[entry]
    async fn more(this: This<Self>, depth: u32) -> u64 {
        let (job, own) = (this.job(), this.index());
        let made: Vec<_> = (0..job.pes()).map(|pe| job.single_on::<Alone>(Pe((pe + own) % job.pes()), ())).collect();
        let limits = join_all(made.iter().map(|one| one.limit())).await.into_iter().sum::<u64>();
        if depth == 0 {
            return limits;
        }
        limits + job.array::<Self>(job.pes(), ()).all().more(depth - 1).reduce(reduce::sum).await
    }
}

struct Alone(u64);

#[chare]
impl Alone {
    #[init]
    fn new() -> Self {
        Self(*LIMIT)
    }
    #[entry]
    fn limit(&self) -> u64 {
        self.0
    }
}

struct OnThread(Option<Pe>);

#[chare(index = u32)]
impl OnThread {
    #[init]
    fn new() -> Self {
        Self(PE.get())
    }
    #[entry]
    fn prepared(&self, cx: &mut Cx<Self>) -> bool {
        self.0 == Some(cx.pe())
    }
}

fn law<F: Future<Output: MainResult> + 'static>(job: impl Fn(Job) -> F) {
    for pes in [1, 2, 4] {
        assert_eq!(threads(pes, &job).unwrap(), 0);
    }
    for transport in ["shm", "tcp"] {
        assert_eq!(processes(3, transport, &job).unwrap(), 0);
    }
    for seed in 0..60 {
        let pes = [2, 3, 7, 24][usize::try_from(seed % 4).unwrap()];
        let options = SimOptions::new(pes, seed).ppn([1, 2, pes][usize::try_from(seed / 4 % 3).unwrap()]);
        assert_eq!(simulate(&options, &job).unwrap(), 0, "{options:?}");
    }
}

fn set_all(job: &Job) -> (u32, f64, String) {
    PARAMS.set(job, Params { steps: job.pes(), name: "of a job".into(), table: vec![0.5; 1_000].into() });
    LIMIT.set(job, 3);
    (job.pes(), 500.0, "of a job".to_owned())
}

/// What a panic says.
fn panic_of<R>(f: impl FnOnce() -> R) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).err().expect("it panics");
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap()).to_owned())
}

#[test]
fn each_constructor_finds_what_main_has_set() {
    law(|job| async move {
        let expected = set_all(&job);
        assert_eq!(PARAMS.steps, job.pes(), "main reads it, too");
        assert_eq!(job.array::<Reader>(40, ()).all().read().await, vec![expected.clone(); 40]);
        let sparse = job.sparse::<Reader>();
        (0..9).for_each(|at| sparse.insert_on(Pe(at % job.pes()), at, ()));
        sparse.done_inserting().await;
        assert_eq!(sparse.all().read().await, vec![expected; 9]);
    });
}

#[test]
fn no_message_that_makes_a_chare_overtakes_the_values() {
    law(|job| async move {
        set_all(&job);
        let pes = u64::from(job.pes());
        let last = job.single_on::<Alone>(Pe(job.pes() - 1), ());
        let made = job.array::<Reader>(1, ()).at(0).more(1);
        assert_eq!(made.await, 3 * pes + 3 * pes * pes);
        assert_eq!(last.limit().await, 3);
    });
}

#[test]
fn what_is_wrong_with_a_value_is_told() {
    law(|job| async move {
        let early = panic_of(|| PARAMS.steps);
        assert!(early.contains("readonlies::PARAMS is read before it is set"), "{early}");
        assert!(PARAMS.try_get().is_none());
        set_all(&job);
        let twice = panic_of(|| LIMIT.set(&job, 5));
        assert!(twice.contains("readonlies::LIMIT has been set already"), "{twice}");
        let unregistered = panic_of(|| UNREGISTERED.set(&job, 5));
        assert!(unregistered.contains("write `#[charm4rs::readonly]`"), "{unregistered}");
        assert_eq!(*LIMIT, 3);
    });
    law(|job| async move {
        job.single::<OnThread2>(());
        let late = panic_of(|| LIMIT.set(&job, 5));
        assert!(late.contains("readonlies::LIMIT is set too late"), "{late}");
        job.quiescence().await;
    });
}

struct OnThread2;

#[chare]
impl OnThread2 {
    #[init]
    fn new() -> Self {
        Self
    }
}

#[test]
fn a_constructor_that_reads_what_is_not_set_ends_the_job_with_its_name() {
    let failure = threads(2, |job| async move {
        LIMIT.set(&job, 1);
        job.array::<Reader>(2, ()).all().read().await;
    });
    let what = failure.unwrap_err().to_string();
    assert!(what.contains("the constructor of readonlies::Reader") && what.contains("PARAMS is read before"), "{what}");
}

#[test]
fn a_job_begins_with_whatever_pe_makes_the_first_chare() {
    let job = LockstepJob::processes(3).unwrap();
    let alone = job.on(Pe(2), |job| job.array::<OnThread>(3, ()));
    let reply = job.on(Pe(2), |_| alone.all().prepared().call());
    job.settle().unwrap();
    let late = job.on(Pe(2), |job| panic_of(|| LIMIT.set(&job, 5)));
    assert!(late.contains("is set on PE 2"), "{late}");
    drop(reply);
}

#[test]
fn a_function_that_fails_before_there_are_chares_ends_the_job_with_its_name() {
    for (fails, name) in [("process", "readonlies::prepare_process"), ("pe", "readonlies::prepare_pe")] {
        FAILS.set(fails);
        let what = simulate(&SimOptions::new(3, 1), |_| async {}).unwrap_err().to_string();
        assert!(what.contains(name) && what.contains("nothing can be prepared"), "{what}");
    }
}

#[test]
fn functions_have_run_on_each_pe_and_process_before_its_chares() {
    for pes in [1, 4] {
        let code = threads(pes, |job| async move {
            assert!(job.array::<OnThread>(20, ()).all().prepared().reduce(reduce::all).await);
        });
        assert_eq!(code.unwrap(), 0);
    }
}
