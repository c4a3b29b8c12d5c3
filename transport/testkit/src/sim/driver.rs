//! Chooses the PE to step next: a random one of those that have something to do. If none has, the clock moves.
//!
//! ```text
//! while let Some(pe) = driver.next() {
//!     let more = schedulers[pe.index()].step(…);
//!     driver.stepped(pe, Stepped { more, timer: schedulers[pe.index()].next_timer() });
//! }
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use super::network::Network;
use charm4rs_transport_core::Pe;
use charm4rs_transport_core::seed::Rng;

/// The state of a PE after a step.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stepped {
    /// It has more to do at once, without any arrival. (A backlog that waits for capacity does not count: the network reports
    /// when there is capacity.)
    pub more: bool,
    /// The latest time, on the network's clock, at which it must be stepped again.
    pub timer: Option<Duration>,
}

/// Decides which PE runs.
#[derive(Debug)]
pub struct Driver {
    network: Network,
    rng: Rng,
    runnable: Vec<Pe>,
    /// Whether a PE is in `runnable`, and its timer.
    listed: Vec<bool>,
    timer_ns: Vec<Option<u64>>,
    timers: BTreeSet<(u64, Pe)>,
    scratch: Vec<Pe>,
}

impl Driver {
    /// A driver for all PEs of `network`. Each is stepped once at first.
    #[must_use]
    pub fn new(network: &Network) -> Self {
        let pes = network.layout().pes();
        Self {
            network: network.clone(),
            rng: network.rng(0),
            runnable: (0..pes).map(Pe).collect(),
            listed: vec![true; pes as usize],
            timer_ns: vec![None; pes as usize],
            timers: BTreeSet::new(),
            scratch: Vec::new(),
        }
    }

    /// The PE to step now; `None`: nothing will ever happen any more.
    #[expect(clippy::should_implement_trait, reason = "its results depend on the calls in between")]
    pub fn next(&mut self) -> Option<Pe> {
        loop {
            self.network.take_ready(&mut self.scratch);
            while let Some(pe) = self.scratch.pop() {
                self.list(pe);
            }
            while !self.runnable.is_empty() {
                let at = self.rng.below(self.runnable.len());
                let pe = self.runnable.swap_remove(at);
                self.listed[pe.index()] = false;
                // A paused PE is reported again when it continues.
                if self.network.is_running(pe) {
                    return Some(pe);
                }
            }
            let timer = self.timers.first().map(|(at_ns, _)| *at_ns);
            let at_ns = self.network.next_ns().into_iter().chain(timer).min()?;
            self.network.advance_to(at_ns);
            while let Some(&(_, pe)) = self.timers.first().filter(|(due_ns, _)| *due_ns <= at_ns) {
                self.set_timer(pe, None);
                self.list(pe);
            }
        }
    }

    /// Reports the state of a PE after its step.
    pub fn stepped(&mut self, pe: Pe, state: Stepped) {
        let timer_ns = state.timer.map(|at| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
        self.set_timer(pe, timer_ns);
        if state.more || self.network.has_arrivals(pe) {
            self.list(pe);
        }
    }

    fn list(&mut self, pe: Pe) {
        if !std::mem::replace(&mut self.listed[pe.index()], true) {
            self.runnable.push(pe);
        }
    }

    fn set_timer(&mut self, pe: Pe, at_ns: Option<u64>) {
        let before = std::mem::replace(&mut self.timer_ns[pe.index()], at_ns);
        if let Some(at_ns) = before {
            self.timers.remove(&(at_ns, pe));
        }
        if let Some(at_ns) = at_ns {
            self.timers.insert((at_ns, pe));
        }
    }
}
