//! The network for the code that runs PEs on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::config::{Config, Fault};
use super::endpoint::SimEndpoint;
use super::world::{Health, World};
use charm4rs_transport_core::{Endpoint, Layout, Pe};

/// Counters of the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    /// Packets posted.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Datagrams lost.
    pub lost: u64,
    /// Datagrams that had no new information.
    pub known: u64,
    /// Datagrams that arrived damaged, which was detected.
    pub corrupt: u64,
}

/// Reads a network's time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Rc<Cell<u64>>);

impl Clock {
    /// Nanoseconds since the network was made.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.0.get()
    }

    /// The time since the network was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns())
    }
}

/// A simulated network. Cheap to clone: clones are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    world: Rc<RefCell<World>>,
    clock: Clock,
    layout: std::sync::Arc<Layout>,
    seed: u64,
}

impl Network {
    /// A network of this description.
    ///
    /// # Panics
    /// If a datagram has no space for data, or no packet may be in flight.
    #[must_use]
    pub fn new(config: Config) -> Self {
        assert!(config.capacity > 0 && config.datagram_max > crate::reliable::HEADER, "{config:?}");
        let (layout, seed) = (std::sync::Arc::new(config.layout.clone()), config.seed);
        let world = World::new(config);
        let clock = Clock(world.now_ns.clone());
        Self { world: Rc::new(RefCell::new(world)), clock, layout, seed }
    }

    /// The shape of the job.
    #[must_use]
    pub fn layout(&self) -> &std::sync::Arc<Layout> {
        &self.layout
    }

    /// Its description.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A PE's endpoint. May be called once for each PE.
    ///
    /// # Panics
    /// If it is called again.
    #[must_use]
    pub fn endpoint(&self, pe: Pe) -> Box<dyn Endpoint> {
        let was_open = std::mem::replace(&mut self.world.borrow_mut().nodes[pe.index()].opened, true);
        assert!(!was_open, "PE {pe} has its endpoint already");
        Box::new(SimEndpoint::new(pe, &self.world))
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// The time of the next event, in nanoseconds; `None`: there is none.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.world.borrow().next_ns()
    }

    /// Moves the clock to the time of the next event, and executes it. False: there is none.
    pub fn advance(&self) -> bool {
        let mut world = self.world.borrow_mut();
        let next = world.next_ns();
        next.map(|at_ns| world.advance_to(at_ns)).is_some()
    }

    /// Moves the clock to `at_ns` (never back), and executes all events that are due by then.
    pub fn advance_to(&self, at_ns: u64) {
        self.world.borrow_mut().advance_to(at_ns);
    }

    /// The PEs to which something happened since the last call: an arrival, a completion, a loss, or new capacity after a refusal.
    pub fn take_ready(&self, into: &mut Vec<Pe>) {
        self.world.borrow_mut().take_ready(into);
    }

    /// Whether a PE has events to take.
    #[must_use]
    pub fn has_arrivals(&self, pe: Pe) -> bool {
        !self.world.borrow().nodes[pe.index()].inbox.is_empty()
    }

    /// Whether a PE can be stepped: it is not paused, closed or dead.
    #[must_use]
    pub fn is_running(&self, pe: Pe) -> bool {
        self.world.borrow().nodes[pe.index()].health == Health::Alive
    }

    /// Injects a fault now.
    pub fn fault(&self, fault: &Fault) {
        self.world.borrow_mut().fault(fault);
    }

    /// Kills a PE. Its peers learn of it after [`Config::dead_after_ns`].
    pub fn kill(&self, pe: Pe) {
        self.fault(&Fault::Kill(pe));
    }

    /// Cuts `side` off from all others, until [`Network::heal`].
    pub fn cut(&self, side: impl IntoIterator<Item = Pe>) {
        self.fault(&Fault::Cut(side.into_iter().collect()));
    }

    /// Heals all cuts.
    pub fn heal(&self) {
        self.fault(&Fault::Heal);
    }

    /// Stops a PE, until [`Network::resume`].
    pub fn pause(&self, pe: Pe) {
        self.fault(&Fault::Pause(pe));
    }

    /// Lets a paused PE continue.
    pub fn resume(&self, pe: Pe) {
        self.fault(&Fault::Resume(pe));
    }

    /// Whether nothing is in flight, pending, or waiting to be taken.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.world.borrow().quiet()
    }

    /// Buffers of a PE's pool that are in use.
    #[must_use]
    pub fn pooled(&self, pe: Pe) -> usize {
        self.world.borrow().nodes[pe.index()].pool.live()
    }

    /// The counters of the wire.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.world.borrow().statistics
    }

    /// A number that is equal for two runs in which the same things happened at the same times.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.world.borrow().trace
    }

    /// A generator from the seed for the code that runs PEs on the network. It is independent of the network's own.
    #[must_use]
    pub fn rng(&self, stream: u64) -> charm4rs_transport_core::seed::Rng {
        charm4rs_transport_core::seed::Rng::stream(self.seed, !stream)
    }
}
