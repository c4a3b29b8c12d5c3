//! A PE's loop, and its interface.
//!
//! # A round
//! 1. Take what arrived at the port, and what the PE sent to itself, up to a batch. System messages are delivered at once, all others are put into
//!    the queue by urgency.
//! 2. Take what other threads pushed (`inbox`).
//! 3. Fire the timers that are due.
//! 4. A burst of up to [`Config`]`::burst_max` times: resume the tasks that are ready, then run the most urgent call. `burst` explains its length.
//!    Tasks go first, because they continue what the call before them was about; each is resumed once, so tasks that wake each other endlessly
//!    alternate with calls and do not starve them.
//! 5. If there was nothing in 1 to 4: call the handler's `idle`, once; then answer a quiescence wave, if one waits.
//!
//! # Shutdown
//! 1. [`Scheduler::stop`] sets the exit code; the first code stays. It does not tell other PEs: its caller must.
//! 2. The current item (call, task, timer, closure) ends; nothing is begun after it. [`Scheduler::run`] returns the code.
//! 3. The layer above takes undelivered messages with [`Scheduler::take_undelivered`], because only it knows whether the bytes own something.
//! 4. [`Scheduler::close`] drops tasks, timers, closures, callbacks and the context, in this order, while the PE can still send: destructors may call
//!    everything, and what they spawn or set is dropped too. Then it shuts the inbox: remotes get [`PeGone`](crate::PeGone) from now on, and wakers
//!    do nothing.
//! 5. Last it closes the port, which delivers what was sent, including the messages of destructors. For that the peers must poll until they close:
//!    all PEs of a job close together.
//!
//! Reasons for this order: tasks may own timers, and cancel them when dropped; both may own holds, which touch the inbox; and all may send.
//!
//! # Borrows
//! The parts of a PE are in `RefCell`s. None is borrowed while user code runs (a handler, a task, a timer, a closure, a destructor), so user code may
//! call everything but `step`, `run` and `close`. One exception: the closures that fill a message write bytes, and must not call the scheduler.

mod burst;
mod end;
mod flow;
mod put_windows;
mod send;
mod status;
mod waves;

pub use flow::Sent;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use charm4rs_transport::memory::{InlineTask, Slab};
use charm4rs_transport::port::{Incoming, Ledger, Port, PortEvent, Sink, tags};
use charm4rs_transport::{Layout, Pe, TransportError};

use crate::handler::{Config, Handler, Step};
use crate::idle::{Idle, Rest};
use crate::inbox::{Foreign, Hold, Inbox, Remote};
use crate::pulse::Pulse;
use crate::queue::Queue;
use crate::quiescence::{Action, Quiescence};
use crate::sync;
use crate::tasks::{TaskId, Tasks};
use crate::timers::{Counted, Due, Sleep, TimerId, Timers};

/// Events taken from the port in one round.
const BATCH: usize = 64;
/// Items of other threads taken in one round.
const FOREIGN: usize = 64;
/// With the machine's clock, timers are checked in one of so many rounds: reading the clock costs as much as a round.
const ROUNDS_PER_LOOK: u32 = 8;
/// If at most so many calls fill a burst, calls are long, and timers are checked in every round.
const BURST_SHORT: usize = 4;
/// Idle rounds after which the time is recorded.
const ROUNDS_UNTIL_IDLE: u32 = 64;

/// What to run once a request for quiescence, identified by its number, is answered.
type Callback = (u64, Box<dyn FnOnce()>);

/// One PE; see the [module's text](self). Neither `Send` nor `Sync`.
pub struct Scheduler {
    me: Weak<Self>,
    pe: Pe,
    layout: Arc<Layout>,
    slab: Slab,
    config: Config,
    port: RefCell<Option<Port>>,
    /// What arrived, or was sent to this PE itself, and is not sorted yet.
    arrived: RefCell<VecDeque<PortEvent>>,
    queue: RefCell<Queue<Ready>>,
    /// Records which messages were taken out of the queue.
    ledger: Ledger,
    /// Tasks that wait until their messages have left.
    room: RefCell<Vec<Waker>>,
    tasks: Tasks,
    timers: Rc<RefCell<Timers>>,
    inbox: Arc<Inbox>,
    sent: Cell<u64>,
    pulse: Arc<Pulse>,
    quiescence: RefCell<Quiescence>,
    callbacks: RefCell<Vec<Callback>>,
    actions: RefCell<Vec<Action>>,
    context: RefCell<Option<Rc<dyn Any>>>,
    stop: Cell<Option<i32>>,
    /// Calls that the next burst may have.
    burst: Cell<usize>,
    /// Bursts of several turns.
    bursts: Cell<u32>,
    /// When the last round ended, if it had a full burst.
    burst_ended: Cell<Option<Duration>>,
    rounds: Cell<u32>,
    worked: Cell<bool>,
    rounds_idle: Cell<u32>,
}

/// An item that is ready to run, other than a task.
#[derive(Debug)]
enum Ready {
    /// A message from another PE, or from this one.
    Message(Incoming),
    /// A call of this PE to itself that needs no message.
    Call(InlineTask),
}

// A slot of the queue: it is written and read for each message.
const _: () = assert!(size_of::<Option<Ready>>() == 48);

/// Where a PE's port puts what has arrived.
struct Arriving<'a, H> {
    queue: &'a mut Queue<Ready>,
    others: &'a mut VecDeque<PortEvent>,
    handler: &'a H,
}

impl<H: Handler> Sink for Arriving<'_, H> {
    #[inline(always)]
    fn message(&mut self, message: Incoming) {
        if message.tag.is_system() {
            self.others.push_back(PortEvent::Message(message));
        } else {
            let class = self.handler.class(&message);
            self.queue.push(Ready::Message(message), class);
        }
    }

    fn event(&mut self, event: PortEvent) {
        match event {
            PortEvent::Message(message) => self.message(message),
            other => self.others.push_back(other),
        }
    }
}

/// Whether a message is the scheduler's own.
#[inline]
fn is_signal(msg: &Incoming) -> bool {
    tags::SCHEDULER.contains(&msg.tag.0)
}

#[inline]
fn bump(counter: &Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}

impl Scheduler {
    /// The scheduler of `port`'s PE, on that PE's thread.
    #[must_use]
    pub fn new(port: Port, config: Config) -> Rc<Self> {
        let inbox = Arc::new(Inbox::new(sync::bell(port.waker())));
        let (pe, layout, slab) = (port.pe(), port.layout().clone(), port.slab().clone());
        let (burst, ledger) = (Cell::new(config.burst_max.clamp(1, burst::FIRST)), port.ledger());
        Rc::new_cyclic(|me| Self {
            me: me.clone(),
            pe,
            slab,
            config,
            port: RefCell::new(Some(port)),
            arrived: RefCell::new(VecDeque::with_capacity(BATCH)),
            queue: RefCell::new(Queue::new()),
            ledger,
            room: RefCell::default(),
            tasks: Tasks::new(inbox.clone()),
            timers: Rc::default(),
            inbox,
            sent: Cell::new(0),
            pulse: Arc::new(Pulse::new()),
            quiescence: RefCell::new(Quiescence::new(&layout, pe)),
            layout,
            callbacks: RefCell::default(),
            actions: RefCell::default(),
            context: RefCell::default(),
            stop: Cell::new(None),
            burst,
            bursts: Cell::new(0),
            burst_ended: Cell::new(None),
            rounds: Cell::new(0),
            worked: Cell::new(false),
            rounds_idle: Cell::new(0),
        })
    }

    /// This PE.
    #[inline]
    #[must_use]
    pub fn pe(&self) -> Pe {
        self.pe
    }

    /// The number of PEs in the job.
    #[must_use]
    pub fn pes(&self) -> u32 {
        self.layout.pes()
    }

    /// The job's shape.
    #[inline]
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The PE's free lists, for calls to itself ([`Msg::fill`](charm4rs_transport::Msg::fill), then [`Scheduler::enqueue`]).
    #[inline]
    #[must_use]
    pub fn slab(&self) -> &Slab {
        &self.slab
    }

    /// The time since the job's start; a simulation's time in a simulation.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.config.clock.now()
    }

    /// Creates a task; it is polled soon, not now.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        self.tasks.spawn(Box::pin(future))
    }

    /// Drops a task: at once, or when its current poll ends. Returns whether there was such a task.
    pub fn cancel(&self, task: TaskId) -> bool {
        self.tasks.cancel(task)
    }

    /// Completes after `time`. Keeps quiescence open from its first poll on.
    pub fn sleep(&self, time: Duration) -> Sleep {
        Sleep::new(self.timers.clone(), self.config.clock.clone(), self.now().saturating_add(time))
    }

    /// Runs `f` on this PE after `time`. Keeps quiescence open until then.
    pub fn after(&self, time: Duration, f: impl FnOnce() + 'static) -> TimerId {
        self.set_timer(time, f, Counted::Yes)
    }

    /// Like [`Scheduler::after`], without keeping quiescence open: for code that supervises the job rather than being part of it.
    pub fn after_system(&self, time: Duration, f: impl FnOnce() + 'static) -> TimerId {
        self.set_timer(time, f, Counted::No)
    }

    fn set_timer(&self, time: Duration, f: impl FnOnce() + 'static, counted: Counted) -> TimerId {
        let at = self.now().saturating_add(time);
        self.timers.borrow_mut().set(at, Due::Call(Box::new(f)), counted)
    }

    /// Cancels a timer. Returns whether it was still pending.
    pub fn cancel_timer(&self, timer: TimerId) -> bool {
        let due = self.timers.borrow_mut().cancel(timer);
        due.is_some()
    }

    /// This PE, for use from other threads.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote(self.inbox.clone())
    }

    /// Keeps the job from being quiescent until the hold is dropped, on any thread.
    pub fn hold(&self) -> Hold {
        self.remote().hold()
    }

    /// Sets the context, which closures from other threads get with [`Scheduler::context`]: the layer above.
    pub fn set_context(&self, context: Rc<dyn Any>) {
        let old = self.context.replace(Some(context));
        drop(old);
    }

    /// The argument of [`Scheduler::set_context`], if it is a `T`.
    #[must_use]
    pub fn context<T: 'static>(&self) -> Option<Rc<T>> {
        self.context.borrow().clone()?.downcast().ok()
    }

    /// Ends the loop after the current item. The first code stays.
    pub fn stop(&self, code: i32) {
        if self.stop.get().is_none() {
            self.stop.set(Some(code));
        }
    }

    /// The code given to [`Scheduler::stop`].
    #[must_use]
    pub fn stopping(&self) -> Option<i32> {
        self.stop.get()
    }

    /// Calls `look` with the port: to read its counters, for example. `None`: the port is closed.
    pub fn with_port<R>(&self, look: impl FnOnce(&Port) -> R) -> Option<R> {
        self.port.borrow().as_ref().map(look)
    }

    /// One round; see the module's text.
    #[inline]
    pub fn step(&self, handler: &impl Handler) -> Step {
        match self.round(handler) {
            _ if self.stop.get().is_some() => Step::Stopped(self.stop.get().unwrap_or_default()),
            Ok(true) => Step::Busy,
            Ok(false) => Step::Idle { until: self.next_timer() },
            Err(error) => Step::Failed(error),
        }
    }

    #[inline]
    fn stopped(&self) -> bool {
        self.stop.get().is_some()
    }

    fn round(&self, handler: &impl Handler) -> Result<bool, TransportError> {
        if self.stopped() {
            return Ok(false);
        }
        self.poll(handler)?;
        let signals = self.sort(handler)?;
        let (foreign, looked) = self.take_foreign();
        let fired = self.fire();
        if self.work(handler) | foreign | fired {
            self.worked.set(true);
            self.rounds_idle.set(0);
            return Ok(true);
        }
        Ok(signals || looked || self.rest(handler))
    }

    /// Polls the port: calls go into the queue, everything else is to be sorted.
    #[inline]
    fn poll(&self, handler: &impl Handler) -> Result<(), TransportError> {
        let Some(port) = &mut *self.port.borrow_mut() else { return Ok(()) };
        let mut arriving =
            Arriving { queue: &mut self.queue.borrow_mut(), others: &mut self.arrived.borrow_mut(), handler };
        port.poll(&mut arriving, BATCH).map(drop)
    }

    /// Sorts the other arrivals. Returns whether there were any.
    #[inline]
    fn sort(&self, handler: &impl Handler) -> Result<bool, TransportError> {
        let count = self.arrived.borrow().len();
        for _ in 0..count {
            let Some(event) = self.arrived.borrow_mut().pop_front() else { break };
            match event {
                PortEvent::Message(msg) if is_signal(&msg) => self.signal(&msg)?,
                PortEvent::Message(msg) if msg.tag.is_system() => handler.deliver(msg),
                PortEvent::Message(msg) => {
                    let class = handler.class(&msg);
                    self.queue.borrow_mut().push(Ready::Message(msg), class);
                }
                PortEvent::Offer(offer) => {
                    let destinations = handler.offer(&offer);
                    if let Some(port) = &mut *self.port.borrow_mut() {
                        port.accept(offer.id, destinations);
                    }
                }
                PortEvent::Refused { to, tag, head, bytes } => {
                    handler.refused(to, tag, &head, bytes);
                    if !tag.is_system() {
                        self.pulse.one_processed();
                    }
                }
                PortEvent::Room => self.room.take().into_iter().for_each(Waker::wake),
                other => tracing::debug!(?other, "the port reports what the scheduler does not know"),
            }
            if self.stopped() {
                break;
            }
        }
        Ok(count > 0)
    }

    /// Returns whether there was work, and whether there was a look.
    #[inline]
    fn take_foreign(&self) -> (bool, bool) {
        let (mut any, mut looked) = (false, false);
        if !self.inbox.notified() {
            return (any, looked);
        }
        self.inbox.drain(FOREIGN, |item| {
            if !matches!(item, Foreign::Look(_)) {
                self.pulse.works();
            }
            match item {
                Foreign::Wake(name) => self.tasks.admit(name),
                Foreign::Run(_) | Foreign::Look(_) if self.stopped() => {}
                Foreign::Run(job) => job(self),
                Foreign::Look(look) => {
                    looked = true;
                    return look(self);
                }
            }
            any = true;
            self.pulse.one_other();
            self.inbox.close();
        });
        (any, looked)
    }

    #[inline]
    fn fire(&self) -> bool {
        if self.timers.borrow().is_empty() {
            return false;
        }
        let round = self.rounds.get().wrapping_add(1);
        self.rounds.set(round);
        let often = self.burst.get() <= BURST_SHORT || !self.config.clock.is_real();
        if !often && !round.is_multiple_of(ROUNDS_PER_LOOK) {
            return false;
        }
        let now = self.now();
        let mut any = false;
        while !self.stopped() {
            let due = self.timers.borrow_mut().pop(now);
            match due {
                Some(due) => {
                    self.pulse.works();
                    match due {
                        Due::Call(f) => f(),
                        Due::Wake(waker) => waker.wake(),
                    }
                }
                None => break,
            }
            self.pulse.one_other();
            any = true;
        }
        any
    }

    /// There was no work. Returns whether there is now.
    fn rest(&self, handler: &impl Handler) -> bool {
        if self.worked.replace(false) {
            handler.idle();
            return true;
        }
        self.rounds_idle.set(self.rounds_idle.get().saturating_add(1));
        let long = !self.config.clock.is_real() || self.rounds_idle.get() == ROUNDS_UNTIL_IDLE;
        if long {
            self.note_idle();
        }
        self.answer_wave()
    }

    fn note_idle(&self) {
        if self.pulse.idle_since().is_none() {
            self.pulse.idle_from(self.now());
        }
    }

    /// Runs rounds and sleeps, until [`Scheduler::stop`]. Returns its code.
    ///
    /// # Errors
    /// The error that ends the job.
    pub fn run(&self, handler: &impl Handler) -> Result<i32, TransportError> {
        let mut idle = Idle::new(self.config.spin, self.config.oversubscribed);
        let start = Instant::now();
        loop {
            match self.step(handler) {
                Step::Busy => idle.worked(),
                Step::Stopped(code) => return Ok(code),
                Step::Failed(error) => return Err(error),
                Step::Idle { until } => match idle.rest(|| start.elapsed()) {
                    Rest::Poll => {}
                    Rest::Pause => std::hint::spin_loop(),
                    Rest::Yield => std::thread::yield_now(),
                    Rest::Park => self.park(handler, until, &mut idle)?,
                },
            }
        }
    }

    fn park(&self, handler: &impl Handler, until: Option<Duration>, idle: &mut Idle) -> Result<(), TransportError> {
        self.note_idle();
        // The next round must check the timers.
        self.rounds.set(ROUNDS_PER_LOOK - 1);
        let limit = until.map(|at| at.saturating_sub(self.now()));
        if self.inbox.notified() || limit.is_some_and(|l| l.is_zero()) {
            return Ok(());
        }
        let began = Instant::now();
        let mut woken = Ok(());
        handler.sleep(&mut || {
            if let Some(port) = &mut *self.port.borrow_mut() {
                woken = port.park(limit);
            }
        });
        idle.slept(began.elapsed());
        woken
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("pe", &self.pe)
            .field("tasks", &self.tasks)
            .field("sent", &self.sent.get())
            .field("pulse", &self.pulse)
            .field("stop", &self.stop.get())
            .finish_non_exhaustive()
    }
}
