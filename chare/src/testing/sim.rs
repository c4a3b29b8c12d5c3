//! A whole job on one thread: the PEs are stepped in an order that a seed decides, under a clock that moves when all of them wait.

use std::cell::OnceCell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use charm4rs_bootstrap::HANGS;
use charm4rs_scheduler::{Config, Stalled, Step, VirtualClock};
use charm4rs_transport::TransportOptions;
use charm4rs_transport::port::Port;
use charm4rs_transport::{Doorbell, Layout, Pe, TransportError};
use charm4rs_transport_testkit::sim::{self, Driver, Network, Stepped};

use super::{First, Recorder, start};
use crate::runtime::lacking::Lacking;
use crate::runtime::{self, Failure, Rt};
use crate::{Job, MainResult, pe, readonly};

/// The options of a simulation.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// PEs of the job.
    pub pes: u32,
    /// PEs per process: calls between them are moved, others are serialized.
    pub ppn: u32,
    /// The seed that decides the order of events. The same seed gives the same run.
    pub seed: u64,
    /// A job that has not ended after so many steps of PEs is considered endless.
    pub steps_max: u64,
    /// The time that each message takes; `None`: the seed decides. With a fixed time, the duration of an operation gives the longest chain of
    /// messages in it, since PEs take no time.
    pub delay: Option<Duration>,
}

impl SimOptions {
    /// Every PE in a process of its own.
    #[must_use]
    pub fn new(pes: u32, seed: u64) -> Self {
        Self { pes, ppn: 1, seed, steps_max: 100_000_000, delay: None }
    }

    /// With `ppn` PEs in each process.
    #[must_use]
    pub fn ppn(self, ppn: u32) -> Self {
        Self { ppn, ..self }
    }
}

/// How a simulated job ended.
#[derive(Clone, Debug)]
pub enum End {
    /// By `exit`, or because its main returned.
    Exit(i32),
    /// A failure on this PE.
    Failed(Pe, Failure),
    /// All PEs wait, and no message is in flight: these suspended tasks and open futures will wait forever.
    Deadlock {
        /// What each PE waits for.
        waits: Vec<Waits>,
        /// What collections lack, such as contributions to a reduction; one line each.
        lacking: Vec<String>,
    },
    /// It did not end within [`SimOptions::steps_max`] steps.
    Endless,
}

/// What a PE waits for in a deadlock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waits {
    /// The PE.
    pub pe: Pe,
    /// Tasks (`async` entry methods, `main`, spawned futures) that will not be woken.
    pub tasks: usize,
    /// Replies that will not be fulfilled.
    pub replies: usize,
    /// Each of the tasks, with what it waits for.
    pub who: Vec<String>,
}

/// The outcome of a simulation.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its options.
    pub options: SimOptions,
    /// How it ended.
    pub end: End,
    /// Steps of PEs.
    pub steps: u64,
    /// The simulated time.
    pub time: Duration,
    /// Messages that PEs sent to others, until the end.
    pub messages: u64,
}

impl Outcome {
    /// The exit status, or why there is none; a deadlock has the status 124.
    ///
    /// # Errors
    /// If the job did not end by itself.
    pub fn result(&self) -> Result<i32, Failure> {
        let hangs = |what| Err(Failure { code: HANGS, what });
        match &self.end {
            End::Exit(code) => Ok(*code),
            End::Failed(_, failure) => Err(failure.clone()),
            End::Deadlock { waits, lacking } => {
                let each: Vec<String> = waits.iter().map(ToString::to_string).chain(lacking.iter().cloned()).collect();
                hangs(format!("deadlock: all PEs wait and no message is in flight ({})", each.join("; ")))
            }
            End::Endless => hangs(format!("no end after {} steps", self.steps)),
        }
    }

    /// The exit status.
    ///
    /// # Panics
    /// If the job did not end by itself; the message names the seed.
    #[track_caller]
    pub fn unwrap(&self) -> i32 {
        self.result().unwrap_or_else(|failure| panic!("{failure} [status {}; {}]", failure.code, self.settings()))
    }

    /// The failure.
    ///
    /// # Panics
    /// If the job did not fail; the message names the seed.
    #[track_caller]
    pub fn unwrap_err(&self) -> Failure {
        match self.result() {
            Err(failure) => failure,
            Ok(_) => panic!("{self}"),
        }
    }

    /// The settings that reproduce the run, and its length.
    fn settings(&self) -> String {
        let SimOptions { pes, ppn, seed, .. } = self.options;
        format!("simulated: +p{pes} ++ppn {ppn} ++seed {seed}, {} steps", self.steps)
    }
}

/// How the job ended and why, and the settings that reproduce the run.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.result() {
            Ok(code) => write!(f, "the job ended with status {code} [{}]", self.settings()),
            Err(failure) => write!(f, "{} [{}]", failure.what, self.settings()),
        }
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who[..] {
            [] => write!(f, "PE {}: {} replies that no task awaits", self.pe, self.replies),
            who => f.write_str(&who.join("; ")),
        }
    }
}

/// Runs a job of simulated PEs on this thread; `main` runs on PE 0.
///
/// # Panics
/// If the options allow no job.
pub fn simulate<F>(options: &SimOptions, main: impl FnOnce(Job) -> F) -> Outcome
where
    F: Future<Output: MainResult> + 'static,
{
    run(options, Box::new(|rt| start(rt, main(Job::of(rt)))))
}

/// Simulates a job; `first` runs on PE 0, before anything else.
pub(crate) fn run(options: &SimOptions, first: pe::Begin<'_>) -> Outcome {
    runtime::install_panic_hook();
    let mut sim = Sim::new(options);
    let end = match readonly::init_process().and_then(|()| sim.open().map_err(|error| Failure::from(&error))) {
        Ok(()) => {
            let zero = sim.pes[0];
            zero.enter(|| pe::guarded(zero, || first(zero)));
            sim.run(options.steps_max)
        }
        Err(failure) => End::Failed(Pe(0), failure),
    };
    let messages = sim.pes.iter().map(|rt| rt.messages()).sum();
    sim.close(&end);
    let end = match (sim.first.take(), end) {
        // Only for a job that ended normally: otherwise closing failed because the job did.
        (Some((pe, failure)), End::Exit(_)) => End::Failed(pe, failure),
        (_, end) => end,
    };
    Outcome { options: options.clone(), end, steps: sim.steps, time: sim.clock.now(), messages }
}

struct Sim {
    pes: Vec<Rt>,
    stopped: Vec<Option<i32>>,
    network: Network,
    driver: Driver,
    clock: VirtualClock,
    first: Rc<First>,
    steps: u64,
    /// A search for a deadlock begins in one of so many steps; 0: in none.
    #[cfg(test)]
    search_every: u64,
}

impl Sim {
    fn new(options: &SimOptions) -> Self {
        let layout = Layout::one_host(options.pes, options.ppn);
        let mut config = sim::Config::reliable(layout, options.seed);
        if let Some(delay) = options.delay.and_then(|delay| u64::try_from(delay.as_nanos()).ok()) {
            (config.delay_ns, config.kib_ns) = (delay..delay + 1, 0);
        }
        let network = Network::new(config);
        Self {
            pes: Vec::new(),
            stopped: vec![None; options.pes as usize],
            driver: Driver::new(&network),
            network,
            clock: VirtualClock::new(),
            first: Rc::default(),
            steps: 0,
            #[cfg(test)]
            search_every: 0,
        }
    }

    fn open(&mut self) -> Result<(), TransportError> {
        let config = Config { clock: self.clock.clock(), burst_max: 1, ..Config::default() };
        // One for all PEs, and for all simulations of a thread: they do not sleep, and a runtime is never freed.
        thread_local! {
            static DOORBELL: OnceCell<Rc<Doorbell>> = const { OnceCell::new() };
        }
        let doorbell = DOORBELL.with(|one| match one.get() {
            Some(doorbell) => Ok(doorbell.clone()),
            None => Doorbell::new().map(|new| one.get_or_init(|| Rc::new(new)).clone()),
        })?;
        let layout = self.network.layout();
        for pe in (0..layout.pes()).map(Pe) {
            let port = Port::over(self.network.endpoint(pe), layout.clone(), TransportOptions::default(), &doorbell);
            self.pes.push(pe::open(port, config.clone(), Rc::new(Recorder(self.first.clone()))));
        }
        Ok(())
    }

    fn run(&mut self, steps_max: u64) -> End {
        while let Some(pe) = self.driver.next() {
            #[cfg(test)]
            if self.search_every > 0 && self.steps.is_multiple_of(self.search_every) {
                self.search();
            }
            let Some(rt) = self.pes.get(pe.index()).filter(|_| self.stopped[pe.index()].is_none()) else { continue };
            self.steps += 1;
            if self.steps > steps_max {
                return End::Endless;
            }
            self.clock.advance_to(self.network.clock().now());
            let stepped = match rt.enter(|| pe::guarded(rt, || rt.sched.step(&pe::Dispatcher(rt)))) {
                Some(Step::Busy) => Stepped { more: true, timer: None },
                Some(Step::Idle { until }) => Stepped { more: false, timer: until },
                Some(Step::Stopped(code)) => {
                    self.stopped[pe.index()] = Some(code);
                    Stepped::default()
                }
                Some(Step::Failed(error)) => {
                    self.first.set(pe, Failure::from(&error));
                    Stepped::default()
                }
                None => Stepped::default(),
            };
            self.driver.stepped(pe, stepped);
            if let Some((pe, failure)) = self.first.take() {
                return End::Failed(pe, failure);
            }
            if self.stopped.iter().all(Option::is_some) {
                return End::Exit(self.stopped[0].unwrap_or_default());
            }
        }
        let waits = self.pes.iter().map(|rt| waits(rt)).filter(Waits::any).collect();
        let mut lacking = Lacking::default();
        self.pes.iter().for_each(|rt| lacking.add(Lacking::of(rt)));
        End::Deadlock { waits, lacking: lacking.lines() }
    }

    fn close(&mut self, end: &End) {
        // Messages in flight arrive and are dropped, including large payloads, in which both ends have to take part. A PE that has failed, or stopped
        // in the midst of its work, receives nothing any more.
        while let (End::Exit(_), Some(pe)) = (end, self.driver.next()) {
            let Some(rt) = self.pes.get(pe.index()) else { continue };
            rt.enter(|| pe::drain(rt));
            self.driver.stepped(pe, Stepped::default());
        }
        for rt in &self.pes {
            rt.enter(|| pe::drain(rt));
        }
        for rt in &self.pes {
            if !matches!(end, End::Exit(_)) {
                rt.enter(|| pe::abandon(rt));
            } else if let Err(error) = rt.enter(|| pe::close(rt)) {
                self.first.set(rt.sched.pe(), Failure::from(&error));
            }
        }
    }
}

fn waits(rt: Rt) -> Waits {
    let tasks = rt.sched.stalled().map_or(0, |Stalled { tasks_suspended, .. }| tasks_suspended);
    let who = runtime::waiting::all(rt).0.iter().map(ToString::to_string).collect();
    Waits { pe: rt.sched.pe(), tasks, replies: rt.futures.waiting(), who }
}

impl Waits {
    fn any(&self) -> bool {
        self.tasks + self.replies > 0
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::prelude::*;
    use crate::runtime::deadlock::{self, Deadlock};

    /// A search begins in one of so many steps: a search takes fewer steps; with a smaller interval it would not end, nor would time advance.
    const EVERY: std::ops::Range<u64> = 40..100;

    struct Worker;

    #[chare(index = u32)]
    impl Worker {
        #[init]
        fn new() -> Self {
            Self
        }
        /// Calls another worker until the number is used up; the last one waits for a call that may never come.
        #[entry]
        async fn work(this: This<Self>, left: u32, ends: bool) {
            let next = this.collection().at((this.index() + 3) % 8);
            match left {
                0 if ends => {}
                0 => this.next_go().await,
                _ => {
                    if left.is_multiple_of(4) {
                        this.sleep(Duration::from_micros(left.into())).await;
                    }
                    next.work(left - 1, ends).done().await;
                }
            }
        }
        #[entry]
        fn go(&self);
    }

    impl Sim {
        /// As another thread of PE 0's process would.
        pub(super) fn search(&mut self) {
            let zero = self.pes[0];
            zero.sched.remote().look(|_| deadlock::search(runtime::current()));
            let stepped = Stepped { more: true, timer: zero.sched.next_timer() };
            self.driver.stepped(Pe(0), stepped);
        }

        fn found(&self) -> Vec<Deadlock> {
            self.pes[0].deadlock.found.take()
        }
    }

    #[test]
    fn an_outcome_prints_how_the_job_ended_and_why() {
        let print = |main: fn()| simulate(&SimOptions::new(1, 3), |_| async move { main() }).to_string();
        let settings = "[simulated: +p1 ++ppn 1 ++seed 3, ";
        assert!(print(|| {}).starts_with(&format!("the job ended with status 0 {settings}")));
        let failed = print(|| panic!("no more"));
        assert!(failed.contains("no more") && failed.contains(settings), "{failed}");
    }

    /// A simulation of `main` with searches in one of `every` steps.
    fn searched<F>(pes: u32, every: u64, main: impl FnOnce(Job) -> F) -> (Sim, End)
    where
        F: Future<Output: MainResult> + 'static,
    {
        let options = SimOptions::new(pes, every).ppn(1 + u32::try_from(every % 3).expect("small"));
        runtime::install_panic_hook();
        let mut sim = Sim::new(&options);
        sim.search_every = every;
        sim.open().expect("a simulated network");
        let zero = sim.pes[0];
        zero.enter(|| start(zero, main(Job::of(zero))));
        let end = sim.run(options.steps_max);
        (sim, end)
    }

    #[test]
    fn searches_find_no_deadlock_in_a_job_that_makes_progress() {
        for every in EVERY {
            let (mut sim, end) = searched(6, every, |job| async move {
                let workers = job.array::<Worker>(8, ());
                for round in 0..5 {
                    workers.all().work(9, true).done().await;
                    workers.at(round).work(20, true);
                    job.quiescence().await;
                    job.sleep(Duration::from_millis(1)).await;
                }
            });
            assert!(matches!(end, End::Exit(0)), "every {every}: {end:?}");
            assert!(sim.found().is_empty(), "every {every}");
            sim.close(&end);
        }
    }

    #[test]
    fn two_searches_find_a_deadlock_and_its_waiting_tasks() {
        for every in EVERY {
            let (mut sim, end) = searched(6, every, |job| async move {
                let workers = job.array::<Worker>(8, ());
                workers.all().work(9, true).done().await;
                workers.at(1).work(1, false).done().await;
            });
            assert!(matches!(end, End::Deadlock { .. }), "every {every}: {end:?}");
            sim.search_every = 0;
            sim.found();
            for _ in 0..3 {
                sim.search();
                assert!(matches!(sim.run(u64::MAX), End::Deadlock { .. }));
            }
            let found = sim.found();
            assert!(found.len() >= 2, "every {every}: {found:?}");
            let text = found[0].to_string();
            for wait in [
                "PE 0: main waits for its call of charm4rs::testing::sim::tests::Worker::work",
                "Worker[1].work waits for its call of charm4rs::testing::sim::tests::Worker::work",
                "Worker[4].work waits for a call of its go",
            ] {
                assert_eq!(text.matches(wait).count(), 1, "{wait:?} in {text}");
            }
            assert!(text.contains("no message is in flight, waiting tasks: 3\n"), "{text}");
            sim.close(&end);
        }
    }

    #[test]
    fn a_wait_for_something_outside_of_the_job_is_no_deadlock() {
        let waker = Rc::new(RefCell::new(None));
        let theirs = waker.clone();
        let (mut sim, end) = searched(3, 1000, |_| {
            std::future::poll_fn(move |cx| {
                *theirs.borrow_mut() = Some(cx.waker().clone());
                std::task::Poll::<()>::Pending
            })
        });
        let searches = |sim: &mut Sim| {
            for _ in 0..3 {
                sim.search();
                sim.run(u64::MAX);
            }
            sim.found().len()
        };
        assert_eq!(searches(&mut sim), 0);
        // Nothing will wake it any more.
        waker.take();
        assert_eq!(searches(&mut sim), 2);
        sim.close(&end);
    }
}
