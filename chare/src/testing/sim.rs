//! A whole job on one thread: the PEs are stepped in an order that a seed decides, under a clock that moves when all of them wait.

use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use charm4rs_scheduler::{Config, Stalled, Step, VirtualClock};
use charm4rs_transport::port::Port;
use charm4rs_transport::seed::Rng;
use charm4rs_transport::wireup::{self, TransportOptions};
use charm4rs_transport::{Layout, Pe, TransportError};

use super::{First, HANGS, start};
use crate::runtime::{self, Driver, Ending, Failure, Rt};
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
    runtime::install_panic_hook();
    let first = Rc::new(First::default());
    let clock = VirtualClock::new();
    let mut sim = Sim { pes: Vec::new(), rng: Rng::stream(options.seed, 1), clock, first, steps: 0 };
    let end = match sim.open(options) {
        Ok(()) => {
            let zero = sim.pes[0].rt;
            zero.enter(|| pe::guarded(zero, || start(zero, main(Job::of(zero)))));
            sim.run(options.steps_max)
        }
        Err(error) => End::Failed(Pe(0), Failure::from(&error)),
    };
    sim.close();
    let end = match (sim.first.take(), end) {
        (Some((pe, failure)), _) => End::Failed(pe, failure),
        (None, end) => end,
    };
    Outcome { options: options.clone(), end, steps: sim.steps, time: sim.clock.now() }
}

struct Sim {
    pes: Vec<Simulated>,
    rng: Rng,
    clock: VirtualClock,
    first: Rc<First>,
    steps: u64,
}

struct Simulated {
    rt: Rt,
    /// What its last step came to, if nothing has happened since.
    rests: Option<Option<Duration>>,
    stopped: Option<i32>,
}

impl Sim {
    fn open(&mut self, options: &SimOptions) -> Result<(), TransportError> {
        let config = Config { clock: self.clock.clock(), burst_max: 1, ..Config::default() };
        for port in ports(options)? {
            let rt = pe::open(port, config.clone(), Rc::new(Recorder(self.first.clone())));
            self.pes.push(Simulated { rt, rests: None, stopped: None });
        }
        Ok(())
    }

    fn run(&mut self, steps_max: u64) -> End {
        let mut runnable: Vec<usize> = (0..self.pes.len()).collect();
        loop {
            while !runnable.is_empty() {
                let at = self.rng.below(runnable.len());
                let pe = runnable[at];
                self.steps += 1;
                if self.steps > steps_max {
                    return End::Endless;
                }
                let rt = self.pes[pe].rt;
                let step = rt.enter(|| pe::guarded(rt, || rt.sched.step(&Driver(rt))));
                match step {
                    Some(Step::Busy) => {}
                    Some(Step::Idle { until }) => {
                        self.pes[pe].rests = Some(until);
                        runnable.swap_remove(at);
                        continue;
                    }
                    Some(Step::Stopped(code)) => self.pes[pe].stopped = Some(code),
                    Some(Step::Failed(error)) => self.first.set(rt.sched.pe(), Failure::from(&error)),
                    None => self.pes[pe].stopped = Some(1),
                }
                if let Some((pe, failure)) = self.first.take() {
                    return End::Failed(pe, failure);
                }
                // It may have sent something to anyone.
                self.pes.iter_mut().for_each(|pe| pe.rests = None);
                runnable.clear();
                runnable.extend((0..self.pes.len()).filter(|&pe| self.pes[pe].stopped.is_none()));
            }
            if let Some(end) = self.all_rest(&mut runnable) {
                return end;
            }
        }
    }

    /// Nobody has anything to do now: lets time pass, or ends the job.
    fn all_rest(&mut self, runnable: &mut Vec<usize>) -> Option<End> {
        if self.pes.iter().all(|pe| pe.stopped.is_some()) {
            return Some(End::Exit(self.pes[0].stopped.unwrap_or_default()));
        }
        let waiting = || self.pes.iter().enumerate().filter(|(_, pe)| pe.stopped.is_none());
        let next = waiting().filter_map(|(_, pe)| pe.rests.flatten()).min();
        let Some(next) = next else {
            return Some(End::Deadlock(waiting().map(|(_, pe)| waits(pe.rt)).filter(Waits::any).collect()));
        };
        self.clock.advance_to(next);
        runnable.extend(waiting().map(|(at, _)| at));
        None
    }

    fn close(&self) {
        for Simulated { rt, .. } in &self.pes {
            rt.enter(|| pe::drain(rt));
        }
        for Simulated { rt, .. } in &self.pes {
            if let Err(error) = rt.enter(|| pe::close(rt)) {
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

fn ports(options: &SimOptions) -> Result<Vec<Port>, TransportError> {
    let layout = Layout::one_host(options.pes, options.ppn);
    let transport = TransportOptions { may_block: false, ..TransportOptions::default() };
    wireup::local(layout, &transport)?.into_iter().map(charm4rs_transport::port::PortBuilder::open).collect()
}

struct Recorder(Rc<First>);

impl Ending for Recorder {
    fn fail(&self, pe: Pe, failure: Failure) {
        self.0.set(pe, failure);
    }
}
