//! Jobs inside a test: with the PEs as threads ([`threads`]), or as processes ([`processes`]); simulated, all on one thread and replayable from a
//! seed ([`simulate`]); or all on one thread over the transports of real jobs, for measurements ([`LockstepJob`]).
//!
//! A job of a test does not end its process: a panic, an error or an exit is a value.
//!
//! ```
//! use charm4rs::prelude::*;
//! use charm4rs::testing;
//!
//! struct Counter(u32);
//!
//! #[chare(index = usize)]
//! impl Counter {
//!     #[init]
//!     fn new() -> Self { Self(0) }
//!     #[entry]
//!     fn add(&mut self, by: u32) -> u32 { self.0 += by; self.0 }
//! }
//!
//! async fn program(job: Job) {
//!     let counters = job.array::<Counter>(10, ());
//!     counters.all().add(1).done().await;
//!     assert_eq!(counters.at(3).add(2).await, 3);
//! }
//!
//! testing::threads(2, program).unwrap();
//! for seed in 0..10 {
//!     testing::simulate(&testing::SimOptions::new(4, seed), program).unwrap();
//! }
//! ```

mod lockstep;
mod sim;

use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use charm4rs_bootstrap::{HANGS, Threads};
use charm4rs_scheduler::{Clock, Config, Remote};
use charm4rs_transport::TransportOptions;
use charm4rs_transport::port::PortBuilder;
use charm4rs_transport::wireup;
use charm4rs_transport::{Layout, Pe};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::wire::WireError;
pub use crate::readonly;
pub use crate::runtime::Failure;
pub use lockstep::LockstepJob;
pub(crate) use sim::run;
pub use sim::{End, Outcome, SimOptions, Waits, simulate};

use crate::message::wire;
use crate::runtime::{self, Host, Rt};
use crate::{Job, MainResult, pe};

/// A job of threads that takes longer hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Runs a job whose PEs are threads; `main` runs on PE 0, which is this thread. Returns the job's exit status, or the first failure.
///
/// # Errors
/// If the job fails, or has not ended in a minute.
///
/// # Panics
/// If the system has no threads for it.
pub fn threads<F>(pes: u32, main: impl FnOnce(Job) -> F) -> Result<i32, Failure>
where
    F: Future<Output: MainResult> + 'static,
{
    let builders = wireup::local(Layout::one_host(pes, pes), &TransportOptions::default());
    let builders = builders.map_err(|error| Failure::from(&error))?;
    run_team(builders, Box::new(|rt| start(rt, main(Job::of(rt)))))
}

/// As [`threads`], but for the runtime each PE is a process of its own, although all are threads of this one. They communicate as processes do, by
/// `transport` (`shm` or `tcp`): messages between them are serialized.
///
/// # Errors
/// As [`threads`], and if there is no such transport.
///
/// # Panics
/// If the system has no threads for it, or the PEs cannot connect.
pub fn processes<F>(pes: u32, transport: &str, main: impl FnOnce(Job) -> F) -> Result<i32, Failure>
where
    F: Future<Output: MainResult> + 'static,
{
    let force = transport.parse().map_err(|error| Failure::from(&error))?;
    let options = TransportOptions { force: Some(force), ..TransportOptions::default() };
    let builders = Threads::open_all(&Layout::one_host(pes, 1), |process| wireup::open(process, &options));
    run_team(builders.into_iter().flatten().collect(), Box::new(|rt| start(rt, main(Job::of(rt)))))
}

/// The number of payloads that this PE has copied on their way, because they had more than one holder or because their memory cannot be handed to the
/// receiver.
///
/// # Panics
/// Outside a job.
#[must_use]
pub fn copies() -> u64 {
    runtime::current().copies()
}

/// Runs each PE on a thread, the first one on this thread.
fn run_team(builders: Vec<PortBuilder>, first: pe::Begin<'_>) -> Result<i32, Failure> {
    runtime::install_panic_hook();
    readonly::init_process()?;
    let running = AtomicU32::new(u32::try_from(builders.len()).expect("PEs are counted in 32 bits"));
    let mut builders = builders.into_iter();
    let own = builders.next().expect("a job has a PE");
    let team = Arc::new(Team { running, clock: Clock::real(), ..Team::default() });
    let others: Vec<_> = builders
        .map(|builder| {
            let team = team.clone();
            let name = format!("pe-{}", builder.pe());
            thread::Builder::new()
                .name(name)
                .spawn(move || team.run(builder, Box::new(|_| {})))
                .expect("a thread for each PE")
        })
        .collect();
    let watchdog = thread::spawn({
        let team = team.clone();
        move || team.watch()
    });
    let code = team.run(own, first);
    for other in others {
        other.join().expect("a PE's panics are caught in its loop");
    }
    team.over();
    watchdog.join().expect("the watchdog only waits");
    match team.first.take() {
        Some((_, failure)) => Err(failure),
        None => Ok(code),
    }
}

/// Turns a job's `main` into a task of this PE.
pub(crate) fn start<F: Future<Output: MainResult> + 'static>(rt: Rt, main: F) {
    let main = async move {
        match main.await.status() {
            Ok(code) => runtime::exit(rt, code),
            Err(what) => rt.fail(Failure { code: 1, what }),
        }
    };
    let main = runtime::spawn_named(rt, "main", Box::pin(main));
    rt.main.set(Some(main));
}

/// The first failure of a job, and its PE.
#[derive(Default, Debug)]
struct First(Mutex<Option<(Pe, Failure)>>);

impl First {
    fn set(&self, pe: Pe, failure: Failure) {
        lock(&self.0).get_or_insert((pe, failure));
    }

    fn take(&self) -> Option<(Pe, Failure)> {
        lock(&self.0).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the first failure of PEs that are all on one thread.
struct Recorder(Rc<First>);

impl Host for Recorder {
    fn fail(&self, pe: Pe, failure: Failure) {
        self.0.set(pe, failure);
    }
}

/// Packs a value as the argument of a call to another process, and unpacks it again.
///
/// # Errors
/// If serialization fails, or deserialization does not accept its output.
pub fn over_the_wire<T: Serialize + DeserializeOwned>(value: &T) -> Result<T, WireError> {
    let mut bytes = Vec::new();
    let _once = wire::Once::begin();
    let payloads = wire::pack(value, &mut bytes)?;
    wire::unpack(&bytes, payloads)
}

/// What the threads of a job share.
#[derive(Default)]
struct Team {
    first: First,
    remotes: Mutex<Vec<Remote>>,
    /// PEs whose loops have not ended.
    running: AtomicU32,
    clock: Clock,
    over: Mutex<bool>,
    bell: Condvar,
}

impl Team {
    /// Runs one PE, until all have ended.
    fn run(self: &Arc<Self>, builder: PortBuilder, first: pe::Begin<'_>) -> i32 {
        let pe = builder.pe();
        let port = match builder.open() {
            Ok(port) => port,
            Err(error) => {
                self.fail(pe, Failure::from(&error));
                self.running.fetch_sub(1, Ordering::AcqRel);
                return i32::from(error.code());
            }
        };
        let config = Config { clock: self.clock.clone(), oversubscribed: true, ..Config::default() };
        let rt = pe::open(port, config, Rc::new(Member(self.clone())));
        lock(&self.remotes).push(rt.sched.remote());
        if lock(&self.first.0).is_some() {
            rt.sched.stop(1); // a PE that failed has stopped all but this one
        }
        rt.enter(|| {
            pe::guarded(rt, || first(rt));
            let code = pe::run(rt).unwrap_or_else(|error| {
                self.fail(pe, Failure::from(&error));
                i32::from(error.code())
            });
            self.running.fetch_sub(1, Ordering::AcqRel);
            while self.running.load(Ordering::Acquire) > 0 {
                pe::drain(rt);
                thread::yield_now();
            }
            if let Err(error) = pe::close(rt) {
                self.fail(pe, Failure::from(&error));
            }
            code
        })
    }

    fn fail(&self, pe: Pe, failure: Failure) {
        self.first.set(pe, failure);
        for remote in &*lock(&self.remotes) {
            // A PE that has ended need not be told.
            let _ = remote.run(|pe| pe.stop(1));
        }
    }

    fn watch(&self) {
        let over = lock(&self.over);
        let (over, wait) =
            self.bell.wait_timeout_while(over, WATCHDOG, |over| !*over).unwrap_or_else(PoisonError::into_inner);
        drop(over);
        if wait.timed_out() {
            self.fail(Pe(0), Failure { code: HANGS, what: format!("the job hangs: it has run for {WATCHDOG:?}") });
        }
    }

    fn over(&self) {
        *lock(&self.over) = true;
        self.bell.notify_one();
    }
}

struct Member(Arc<Team>);

impl Host for Member {
    fn fail(&self, pe: Pe, failure: Failure) {
        self.0.fail(pe, failure);
    }
}
