//! A whole job on one thread: the PEs are stepped in an order that a seed decides, under a clock that moves when all of them wait.

use std::cell::OnceCell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use charm4rs_scheduler::{Config, Stalled, Step, VirtualClock};
use charm4rs_transport::port::Port;
use charm4rs_transport::sim::{self, Driver, Network, Stepped};
use charm4rs_transport::wireup::TransportOptions;
use charm4rs_transport::{Doorbell, Layout, Pe, TransportError};

use super::{First, HANGS, Recorder, start};
use crate::runtime::{self, Failure, Rt};
use crate::{Job, MainResult, pe};

/// What to simulate.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// PEs of the job.
    pub pes: u32,
    /// PEs of a process: calls between them are moved, others are serialized.
    pub ppn: u32,
    /// What decides the order of events. The same seed gives the same run.
    pub seed: u64,
    /// After so many steps of PEs the job is taken to run for ever.
    pub steps_max: u64,
}

impl SimOptions {
    /// Every PE in a process of its own.
    #[must_use]
    pub fn new(pes: u32, seed: u64) -> Self {
        Self { pes, ppn: 1, seed, steps_max: 100_000_000 }
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
    /// Something failed, on this PE.
    Failed(Pe, Failure),
    /// All PEs wait, and nothing is on its way: these suspended tasks and open futures will wait for ever.
    Deadlock(Vec<Waits>),
    /// It took [`SimOptions::steps_max`] steps without an end.
    Endless,
}

/// What a PE waits for in a deadlock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waits {
    /// The PE.
    pub pe: Pe,
    /// Tasks (`async` entry methods, `main`, spawned futures) that nobody will wake.
    pub tasks: usize,
    /// Replies that nobody will give.
    pub replies: usize,
}

/// What came of a simulation.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The options it was made from.
    pub options: SimOptions,
    /// How it ended.
    pub end: End,
    /// Steps of PEs.
    pub steps: u64,
    /// The simulated time.
    pub time: Duration,
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
            End::Deadlock(waits) => {
                let each: Vec<String> = waits.iter().map(ToString::to_string).collect();
                hangs(format!("deadlock: all PEs wait and nothing is on its way ({})", each.join("; ")))
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
        self.result().unwrap_or_else(|failure| panic!("{failure} [status {}; {self}]", failure.code))
    }

    /// Why it failed.
    ///
    /// # Panics
    /// If it did not; the message names the seed.
    #[track_caller]
    pub fn unwrap_err(&self) -> Failure {
        match self.result() {
            Err(failure) => failure,
            Ok(code) => panic!("the job ended with status {code} [{self}]"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SimOptions { pes, ppn, seed, .. } = self.options;
        write!(f, "simulated: +p{pes} ++ppn {ppn} ++seed {seed}, {} steps", self.steps)
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PE {} has {} tasks and {} replies that wait", self.pe, self.tasks, self.replies)
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
    run(options, |rt| start(rt, main(Job::of(rt))))
}

/// Simulates a job; `first` runs on PE 0, before anything else.
pub(crate) fn run(options: &SimOptions, first: impl FnOnce(Rt)) -> Outcome {
    runtime::install_panic_hook();
    let mut sim = Sim::new(options);
    let end = match sim.open() {
        Ok(()) => {
            let zero = sim.pes[0];
            zero.enter(|| pe::guarded(zero, || first(zero)));
            sim.run(options.steps_max)
        }
        Err(error) => End::Failed(Pe(0), Failure::from(&error)),
    };
    sim.close(&end);
    let end = match (sim.first.take(), end) {
        // Only of a job that ended well: otherwise the closing failed because the job did.
        (Some((pe, failure)), End::Exit(_)) => End::Failed(pe, failure),
        (_, end) => end,
    };
    Outcome { options: options.clone(), end, steps: sim.steps, time: sim.clock.now() }
}

struct Sim {
    pes: Vec<Rt>,
    stopped: Vec<Option<i32>>,
    network: Network,
    driver: Driver,
    clock: VirtualClock,
    first: Rc<First>,
    steps: u64,
}

impl Sim {
    fn new(options: &SimOptions) -> Self {
        let layout = Layout::one_host(options.pes, options.ppn);
        let network = Network::new(sim::Config::reliable(layout, options.seed));
        Self {
            pes: Vec::new(),
            stopped: vec![None; options.pes as usize],
            driver: Driver::new(&network),
            network,
            clock: VirtualClock::new(),
            first: Rc::default(),
            steps: 0,
        }
    }

    fn open(&mut self) -> Result<(), TransportError> {
        let config = Config { clock: self.clock.clock(), burst_max: 1, ..Config::default() };
        // One for all, and for all simulations of a thread: nobody sleeps in them, and what a runtime holds is never freed.
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
            let Some(rt) = self.pes.get(pe.index()).filter(|_| self.stopped[pe.index()].is_none()) else { continue };
            self.steps += 1;
            if self.steps > steps_max {
                return End::Endless;
            }
            self.clock.advance_to(self.network.clock().now());
            let stepped = match rt.enter(|| pe::guarded(rt, || rt.sched.step(&pe::Driver(rt)))) {
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
        End::Deadlock(self.pes.iter().map(|rt| waits(rt)).filter(Waits::any).collect())
    }

    fn close(&mut self, end: &End) {
        // What is on its way arrives and is dropped, large payloads included, which both ends have to take part in. Who has
        // failed, or stopped in the midst of its work, takes nothing any more.
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
    Waits { pe: rt.sched.pe(), tasks, replies: rt.futures.waiting() }
}

impl Waits {
    fn any(&self) -> bool {
        self.tasks + self.replies > 0
    }
}
