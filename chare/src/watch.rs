//! Supervises the PEs of a process: reports a PE that does not return from an entry method, lets PE 0 search for deadlocks, and with `++hang-timeout`
//! ends a job that hangs.
//!
//! # How it works
//! Each process has one thread for this, which sleeps and checks periodically; the PEs do hardly more for it than they would do anyway ([`Pulse`],
//! [`Running`]). If two readings of a PE are equal and it is not idle, it has been in the same entry method between them. The PE's thread itself
//! reports the method, its chare and the position in it, in a signal handler, which may interrupt an endless loop at any instruction (see
//! [`charm4rs_bootstrap::interrupt`]). A warning asks only for the names: the job continues, and nothing risky may happen to it. The stack
//! is walked only when the job ends anyway.
//!
//! Deadlocks concern the whole job, so they are found by a search (see [`deadlock`]). The thread in PE 0's process starts it when PE 0 has been idle
//! for a while; a second search, a while later, confirms the result.
//!
//! # The end
//! The process that detects a hang reports it with the stacks of its own PEs, as the job's failure with status 124. The launcher asks all other
//! processes for theirs, and then kills them; the first process waits until then, since the others would notice its end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use charm4rs_bootstrap::interrupt::Seat;
use charm4rs_bootstrap::options::Options;
use charm4rs_bootstrap::{Control, Order, Report};
use charm4rs_scheduler::{Clock, Pulse, Remote};
use charm4rs_transport::Pe;

use crate::runtime::deadlock::{self, Deadlock};
use crate::runtime::running::{self, Running};
use crate::runtime::stack::is_runtime;
use crate::runtime::{self, Rt};

/// An entry method that runs for so long is reported; then after twice the time, and so on.
const LONG: Duration = Duration::from_secs(30);
/// A deadlock is reported after this time.
const DEADLOCK: Duration = Duration::from_secs(10);
/// The longest time between two checks.
const TICK: Duration = Duration::from_secs(1);
/// The number of checks within each of the times above.
const TICKS: u32 = 10;
/// How long a PE may take to report what it does.
const ANSWER: Duration = Duration::from_millis(500);
/// For tests: a factor for all of the times above.
const PATIENCE: &str = "CHARM4RS_PATIENCE";

/// The time since the job's start in nanoseconds, at the thread's last check.
static COARSE: AtomicU64 = AtomicU64::new(0);

/// [`Job::now`](crate::Job::now) as of at most a second ago: for time stamps of frequent events, since it costs only a load. Zero in a simulation.
#[must_use]
pub fn coarse_now() -> Duration {
    Duration::from_nanos(COARSE.load(Ordering::Relaxed))
}

/// The time limits.
#[derive(Clone, Copy, Debug)]
struct Limits {
    long: Duration,
    deadlock: Duration,
    hang: Option<Duration>,
    tick: Duration,
}

impl Limits {
    fn new(hang: Option<Duration>) -> Self {
        let patience = std::env::var(PATIENCE).ok().and_then(|text| text.parse::<f64>().ok());
        let patience = patience.filter(|factor| (0.001..=1.0).contains(factor)).unwrap_or(1.0);
        let (long, deadlock) = (LONG.mul_f64(patience), DEADLOCK.mul_f64(patience));
        // Soon enough to end a job in time.
        let deadlock = hang.map_or(deadlock, |hang| hang.min(deadlock));
        let tick = (deadlock / TICKS).min(TICK).max(Duration::from_millis(1));
        Self { long, deadlock, hang, tick }
    }

    /// The time between two searches for a deadlock.
    fn search(&self) -> Duration {
        self.deadlock.mul_f64(0.4)
    }
}

/// The PEs of this process, as seen from other threads. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    control: Control,
    clock: Clock,
    limits: Limits,
    pes: Mutex<BTreeMap<Pe, Watched>>,
    /// The last deadlock that was reported.
    told: Mutex<Option<[u64; 3]>>,
}

#[derive(Clone, Debug)]
struct Watched {
    pulse: Arc<Pulse>,
    running: &'static Running,
    seat: Seat,
    remote: Remote,
}

/// While this exists, the PE of its thread is supervised.
pub(crate) struct Seated<'a> {
    watch: &'a Watch,
    pe: Pe,
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        self.watch.shared.pes().remove(&self.pe);
    }
}

impl Shared {
    fn pes(&self) -> std::sync::MutexGuard<'_, BTreeMap<Pe, Watched>> {
        self.pes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Starts the thread, without a PE yet.
    pub(crate) fn start(options: &Options, control: &Control, clock: Clock) -> Self {
        let limits = Limits::new(options.hang_timeout);
        let shared =
            Arc::new(Shared { control: control.clone(), clock, limits, pes: Mutex::default(), told: Mutex::default() });
        let watch = Self { shared };
        let asked = watch.clone();
        control.on_order(move |order| {
            if order == Order::Stacks {
                asked.shared.control.report(Report::Stacks(asked.stacks()));
            }
        });
        let watching = watch.clone();
        let thread = std::thread::Builder::new().name("charm4rs-watch".to_owned());
        // The program must not have used up what a thread needs at its start: its failure would end the process without a message.
        let (started, has_started) = std::sync::mpsc::sync_channel(0);
        let run = move || {
            let _ = started.send(());
            watching.run();
        };
        if let Err(error) = thread.spawn(run) {
            control.abort(
                71,
                None,
                &format!("cannot start the thread that supervises the PEs: {error}; see ulimit -u"),
            );
        }
        let _ = has_started.recv();
        watch
    }

    /// Supervises the PE of this thread.
    pub(crate) fn seat(&self, rt: Rt) -> Seated<'_> {
        let pe = rt.sched.pe();
        let seat = running::seat();
        let watched = Watched { pulse: rt.sched.pulse(), running: &rt.running, seat, remote: rt.sched.remote() };
        self.shared.pes().insert(pe, watched);
        Seated { watch: self, pe }
    }

    /// The whole job is in a deadlock.
    pub(crate) fn deadlock(&self, found: &Deadlock) {
        let Limits { hang, deadlock, .. } = self.shared.limits;
        if hang.is_some_and(|hang| found.idle_for >= hang) {
            let what = format!("{found}\n{}", self.stacks());
            self.shared.control.give_up(found.pe(), &what);
        }
        let mut told = self.shared.told.lock().unwrap_or_else(PoisonError::into_inner);
        // If the job is about to end because of the hang, that report is enough.
        if told.replace(found.sums) != Some(found.sums) && hang.is_none_or(|hang| hang > deadlock) {
            self.shared.control.report(Report::Warning(found.to_string()));
        }
    }

    fn run(&self) {
        let mut histories = BTreeMap::new();
        loop {
            let slept = Instant::now();
            std::thread::sleep(self.shared.limits.tick);
            if slept.elapsed() > self.shared.limits.tick * 4 + TICK {
                // The process was stopped, by a debugger perhaps: no PE made progress in that time.
                histories.clear();
            }
            let now = self.shared.clock.now();
            COARSE.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            let pes = self.shared.pes().clone();
            histories.retain(|pe, _| pes.contains_key(pe));
            for (pe, watched) in &pes {
                let history = histories.entry(*pe).or_insert_with(|| History::new(&self.shared.limits));
                let (now, idle_since) = (self.shared.clock.now(), watched.pulse.look().idle_since);
                match history.look(watched.token(), idle_since, now, &self.shared.limits) {
                    Finding::Search if *pe == Pe(0) => watched.remote.look(|_| deadlock::search(runtime::current())),
                    Finding::Nothing | Finding::Search => {}
                    Finding::Long(time) => self.warn(*pe, watched, history.token, time),
                    Finding::Hang(time) => self.end(*pe, watched, time),
                }
            }
        }
    }

    fn warn(&self, pe: Pe, watched: &Watched, token: Token, time: Duration) {
        let what = watched.what(pe);
        // It may have returned while it was asked.
        if watched.token() == token {
            let text = format!("{what} has run for {} s without returning", time.as_secs_f64().round());
            self.shared.control.report(Report::Warning(text));
        }
    }

    fn end(&self, pe: Pe, watched: &Watched, time: Duration) -> ! {
        let what = watched.what(pe);
        let text = format!("{what} has run for {:.1} s without returning\n{}", time.as_secs_f64(), self.stacks());
        self.shared.control.give_up(Some(pe), &text)
    }

    /// What all PEs of this process do, with stacks.
    fn stacks(&self) -> String {
        let pes = self.shared.pes().clone();
        let now = self.shared.clock.now();
        let mut text = String::new();
        for (pe, watched) in pes {
            let _ = match watched.pulse.look().idle_since {
                Some(since) => writeln!(text, "PE {pe}: idle for {:.1} s", now.saturating_sub(since).as_secs_f64()),
                None => write!(text, "PE {pe}: {}", watched.where_it_is()),
            };
        }
        text
    }
}

/// What a PE does, as a value to compare.
type Token = (u64, (usize, usize));

impl Watched {
    fn token(&self) -> Token {
        (self.pulse.look().turns, self.running.token())
    }

    /// The name of what runs on a PE.
    fn what(&self, pe: Pe) -> String {
        match self.seat.ask(false, ANSWER) {
            Some(told) => format!("{} on PE {pe}", running::name(&told)),
            None => format!("what runs on PE {pe}, which does not answer,"),
        }
    }

    fn where_it_is(&self) -> String {
        match self.seat.ask(true, ANSWER) {
            Some(told) => format!("{}\n{}", running::name(&told), told.stack(&is_runtime)),
            None => "does not answer\n".to_owned(),
        }
    }
}

/// What the thread remembers of a PE.
#[derive(Debug)]
struct History {
    token: Token,
    /// When it was first seen in this state.
    since: Duration,
    /// The duration after which it is reported next.
    next: Duration,
    searched: Duration,
}

#[derive(PartialEq, Eq, Debug)]
enum Finding {
    Nothing,
    /// It has been idle for a while: a deadlock is possible.
    Search,
    /// It has been in one entry method for this time.
    Long(Duration),
    /// For so long that the job must end.
    Hang(Duration),
}

impl History {
    fn new(limits: &Limits) -> Self {
        Self { token: (u64::MAX, (0, 0)), since: Duration::ZERO, next: limits.long, searched: Duration::ZERO }
    }

    fn look(&mut self, token: Token, idle_since: Option<Duration>, now: Duration, limits: &Limits) -> Finding {
        if let Some(since) = idle_since {
            *self = Self { searched: self.searched, ..Self::new(limits) };
            let wait = limits.search();
            if now.saturating_sub(since.max(self.searched)) < wait {
                return Finding::Nothing;
            }
            self.searched = now;
            return Finding::Search;
        }
        if token != self.token {
            *self = Self { token, since: now, ..*self };
            self.next = limits.long;
            return Finding::Nothing;
        }
        let time = now.saturating_sub(self.since);
        if limits.hang.is_some_and(|hang| time >= hang) {
            return Finding::Hang(time);
        }
        if time < self.next {
            return Finding::Nothing;
        }
        self.next *= 2;
        Finding::Long(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { long: Duration::from_secs(30), deadlock: Duration::from_secs(10), hang: None, tick: TICK };

    /// The findings at each second for a PE with these turns, or one that is idle since then.
    fn found(limits: &Limits, seconds: u64, seen: impl Fn(u64) -> (u64, Option<u64>)) -> Vec<(u64, Finding)> {
        let mut history = History::new(limits);
        let mut look = |second| {
            let (turns, idle) = seen(second);
            let now = Duration::from_secs(second);
            (second, history.look((turns, (0, 0)), idle.map(Duration::from_secs), now, limits))
        };
        (1..=seconds).map(&mut look).filter(|(_, finding)| *finding != Finding::Nothing).collect()
    }

    #[test]
    fn a_method_that_does_not_return_is_reported_after_half_a_minute_and_then_ever_more_rarely() {
        let long = |seconds| Finding::Long(Duration::from_secs(seconds));
        let expected = [(31, long(30)), (61, long(60)), (121, long(120)), (241, long(240))];
        assert_eq!(found(&LIMITS, 300, |_| (7, None)), expected);
    }

    #[test]
    fn a_pe_that_makes_progress_or_is_idle_in_between_is_not_reported() {
        assert_eq!(found(&LIMITS, 300, |second| (second / 29, None)), []);
        let searches = found(&LIMITS, 300, |second| (7, (second % 29 == 0).then_some(second)));
        assert_eq!(searches, []);
    }

    #[test]
    fn a_job_that_hangs_is_ended_at_its_limit() {
        let limits = Limits { hang: Some(Duration::from_secs(5)), ..LIMITS };
        assert_eq!(found(&limits, 6, |_| (7, None)), [(6, Finding::Hang(Duration::from_secs(5)))]);
    }

    #[test]
    fn an_idle_pe_starts_two_searches_before_a_deadlock_is_reported() {
        let searches = found(&LIMITS, 14, |_| (7, Some(1)));
        assert_eq!(searches, [5, 9, 13].map(|second| (second, Finding::Search)));
    }
}
