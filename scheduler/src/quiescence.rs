//! Quiescence detection: no message is in flight, queued or being processed, no counted timer is pending, and no hold exists in the whole job.
//! Suspended tasks do not count: nothing is left that could resume them.
//!
//! # Algorithm
//! The counting algorithm of Sinha, Kalé and Ramkumar ("A dynamic and adaptive quiescence detection algorithm", 1993),
//! which is Mattern's four-counter method over a spanning tree.
//!
//! Every PE counts the messages that it has sent and processed since the start. (So that one rule covers everything, setting a timer, taking a hold
//! and queueing a remote closure count as sent; firing, dropping and running it count as processed.) PE 0 is the root of a [`Tree`]. It collects
//! *waves*: `Down` goes from the root to all PEs; each PE waits until it is *idle* (its queues are empty, no task is ready, no counted timer is
//! pending, no hold exists) and its children have answered, then answers `Up` with the sums over its subtree. At most one wave is in flight.
//!
//! The root declares the job quiescent when two consecutive waves give the same sums, with sent = processed.
//!
//! # Proof
//! Let the first wave end at time t1 (the root has all answers), and let the second start after t1. A PE's counters only grow, so equal sums mean
//! that no PE's counters changed between its two samples; every PE's first sample is before t1, and the second after t1. So at t1 each PE's counters
//! have the values of both waves. The number of messages in flight at t1 is sent - processed = 0. Each PE was idle at its first sample and has done
//! nothing counted since, and only something counted (a message, a timer, a closure, a wake from another thread) can end idleness: so at t1 every PE
//! is idle. Nothing that exists at t1 can start anything: the job is quiescent, and stays so until something comes from outside.
//!
//! # Requests
//! Any PE may send a request at any time; it goes to the root. A pair of waves answers it if the second wave *started after the request arrived*.
//! Proof: suppose that some work that existed when the request was made is not finished. The PE that created it had counted it by then, and that PE's
//! sample for the second wave is later. If the work was created before t1, this contradicts that the job was quiescent at t1; if after t1, it is in
//! the second wave's sums and not in the first's. So each request carries the number of the first wave that may confirm it. (The first wave of the
//! pair may be old: if nothing has happened since, one new wave is enough.) `Done` goes back to the requester.
//!
//! # Cost
//! Without a request there are no waves, and the cost is two counters per message. A wave costs two small messages per PE. A busy PE delays the wave
//! rather than answering "not yet", so waves do not spin while the job computes, nor while a timer or a hold keeps it from being quiescent. Waves are
//! repeated only while all PEs are idle and a message is still in flight; then the root pauses between waves for 10 us, doubled up to 1 ms while the
//! sums do not change.
//!
//! This file is only the state machine: it knows nothing of ports, and returns [`Action`]s for its caller to do.

use std::time::Duration;

use charm4rs_transport::port::{Tag, tags};
use charm4rs_transport::{Layout, Pe};

use crate::Tree;

/// The maximum number of children of a PE on each level of the tree.
const FANOUT: u32 = 4;

const PAUSE_MIN: Duration = Duration::from_micros(10);
const PAUSE_DOUBLINGS_MAX: u32 = 7;

/// Messages sent and processed since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Sums {
    pub(crate) sent: u64,
    pub(crate) processed: u64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.sent = self.sent.wrapping_add(other.sent);
        self.processed = self.processed.wrapping_add(other.processed);
    }
}

/// The messages between PEs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    /// To the root: a request to be told when the job is quiescent.
    Ask { request: u64 },
    /// To a child: a wave begins.
    Down { wave: u64 },
    /// To the parent: the sums of the sender's subtree.
    Up { wave: u64, sums: Sums },
    /// To the requester: the job is quiescent.
    Done { request: u64 },
}

/// The scheduler's own tags.
const ASK: u8 = 0xE0;
const DOWN: u8 = 0xE1;
const UP: u8 = 0xE2;
const DONE: u8 = 0xE3;
const _: () = assert!(tags::is_in(ASK, &tags::SCHEDULER) && tags::is_in(DONE, &tags::SCHEDULER));

/// The longest signal, in bytes.
pub(crate) const SIGNAL_MAX: usize = 24;

impl Signal {
    /// The tag, the bytes, and their number.
    pub(crate) fn encode(self) -> (Tag, [u8; SIGNAL_MAX], usize) {
        let (tag, words, count) = match self {
            Self::Ask { request } => (ASK, [request, 0, 0], 1),
            Self::Down { wave } => (DOWN, [wave, 0, 0], 1),
            Self::Up { wave, sums } => (UP, [wave, sums.sent, sums.processed], 3),
            Self::Done { request } => (DONE, [request, 0, 0], 1),
        };
        let mut bytes = [0; SIGNAL_MAX];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        (Tag(tag), bytes, 8 * count)
    }

    pub(crate) fn decode(tag: Tag, bytes: &[u8]) -> Result<Self, Violation> {
        let mut words = bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("eight bytes")));
        let mut word = || words.next().ok_or(Violation::Length);
        let signal = match tag.0 {
            ASK => Self::Ask { request: word()? },
            DOWN => Self::Down { wave: word()? },
            UP => Self::Up { wave: word()?, sums: Sums { sent: word()?, processed: word()? } },
            DONE => Self::Done { request: word()? },
            _ => return Err(Violation::Tag),
        };
        let expected = signal.encode().2;
        if bytes.len() == expected { Ok(signal) } else { Err(Violation::Length) }
    }
}

/// A signal that the protocol does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// A tag of the scheduler's range that is not assigned.
    Tag,
    /// The signal's length is wrong.
    Length,
    /// `Down` from a PE that is not the parent, during a wave, or with the wrong number.
    Down,
    /// `Up` from a PE that is not a child, twice, or for another wave.
    Up,
    /// `Ask` to a PE that is not the root.
    Ask,
    /// `Done` for a request that was not made.
    Done,
}

impl Violation {
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Tag => "a scheduler message of an unknown kind",
            Self::Length => "a quiescence message of the wrong length",
            Self::Down => "a quiescence wave out of turn",
            Self::Up => "an answer to a quiescence wave out of turn",
            Self::Ask => "a request for quiescence to a PE that is not the root",
            Self::Done => "an answer to a request for quiescence that was not made",
        }
    }
}

/// What the scheduler must do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Send(Pe, Signal),
    /// Run the callback of this request.
    Fire {
        request: u64,
    },
    /// Call [`Quiescence::resume`] after this time.
    Pause(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Wave {
    number: u64,
    sums: Sums,
    /// One bit for each child that has answered.
    answered: u64,
}

#[derive(Debug)]
struct Request {
    from: Pe,
    id: u64,
    /// The first wave that may confirm it: the first that starts after it arrived.
    since: u64,
}

/// State that only the root has.
#[derive(Debug, Default)]
struct Root {
    requests: Vec<Request>,
    /// The previous wave, and its sums.
    last: Option<(u64, Sums)>,
    paused: bool,
    doublings: u32,
}

/// The state of one PE in the algorithm; see the module's text.
#[derive(Debug)]
pub(crate) struct Quiescence {
    me: Pe,
    parent: Option<Pe>,
    children: Box<[Pe]>,
    /// The wave that this PE has not answered yet.
    wave: Option<Wave>,
    /// The number of the newest wave seen.
    newest: u64,
    asked: Vec<u64>,
    asked_ever: u64,
    root: Root,
}

impl Quiescence {
    pub(crate) fn new(layout: &Layout, me: Pe) -> Self {
        let tree = Tree::new(layout, Pe(0), FANOUT);
        let children: Box<[Pe]> = tree.children(me).collect();
        debug_assert!(children.len() <= 64, "one bit for each child");
        Self {
            me,
            parent: tree.parent(me),
            children,
            wave: None,
            newest: 0,
            asked: Vec::new(),
            asked_ever: 0,
            root: Root::default(),
        }
    }

    /// Makes a request. Returns its number, which comes back in [`Action::Fire`].
    pub(crate) fn ask(&mut self, out: &mut Vec<Action>) -> u64 {
        self.asked_ever += 1;
        let request = self.asked_ever;
        self.asked.push(request);
        if self.parent.is_some() {
            out.push(Action::Send(Pe(0), Signal::Ask { request }));
        } else {
            self.note(self.me, request, out);
        }
        request
    }

    /// Whether a call of [`Quiescence::idle`] would have an effect.
    #[inline]
    pub(crate) fn waits_for_idle(&self) -> bool {
        self.wave.is_some_and(|w| w.answered.count_ones() as usize == self.children.len())
    }

    /// The PE is idle, and these are its counters now.
    pub(crate) fn idle(&mut self, own: Sums, out: &mut Vec<Action>) {
        if !self.waits_for_idle() {
            return;
        }
        let Some(Wave { number: wave, mut sums, .. }) = self.wave.take() else { return };
        sums.add(own);
        match self.parent {
            Some(parent) => out.push(Action::Send(parent, Signal::Up { wave, sums })),
            None => self.complete(wave, sums, out),
        }
    }

    /// A signal arrived.
    pub(crate) fn signal(&mut self, from: Pe, signal: Signal, out: &mut Vec<Action>) -> Result<(), Violation> {
        match signal {
            Signal::Ask { request } => {
                if self.parent.is_some() {
                    return Err(Violation::Ask);
                }
                self.note(from, request, out);
            }
            Signal::Down { wave } => {
                if self.parent != Some(from) || self.wave.is_some() || wave <= self.newest {
                    return Err(Violation::Down);
                }
                self.begin(wave, out);
            }
            Signal::Up { wave, sums } => {
                let child = self.children.iter().position(|&c| c == from).ok_or(Violation::Up)?;
                let mine = self.wave.as_mut().filter(|w| w.number == wave).ok_or(Violation::Up)?;
                if mine.answered & (1 << child) != 0 {
                    return Err(Violation::Up);
                }
                mine.answered |= 1 << child;
                mine.sums.add(sums);
            }
            Signal::Done { request } => {
                let at = self.asked.iter().position(|&r| r == request).filter(|_| from == Pe(0));
                self.asked.swap_remove(at.ok_or(Violation::Done)?);
                out.push(Action::Fire { request });
            }
        }
        Ok(())
    }

    fn begin(&mut self, wave: u64, out: &mut Vec<Action>) {
        self.newest = wave;
        self.wave = Some(Wave { number: wave, sums: Sums::default(), answered: 0 });
        out.extend(self.children.iter().map(|&child| Action::Send(child, Signal::Down { wave })));
    }

    /// The root records a request, and starts a wave unless one is in flight or due.
    fn note(&mut self, from: Pe, id: u64, out: &mut Vec<Action>) {
        self.root.requests.push(Request { from, id, since: self.newest + 1 });
        if self.wave.is_none() && !self.root.paused {
            self.begin(self.newest + 1, out);
        }
    }

    /// The root has all answers to a wave.
    fn complete(&mut self, wave: u64, sums: Sums, out: &mut Vec<Action>) {
        let last = self.root.last.replace((wave, sums));
        let same = last == Some((wave.wrapping_sub(1), sums));
        if sums.sent == sums.processed {
            self.root.doublings = 0;
            if same {
                self.declare(wave, out);
            }
            if !self.root.requests.is_empty() {
                self.begin(wave + 1, out);
            }
            return;
        }
        // All PEs are idle, but something is in flight.
        self.root.doublings = if same { (self.root.doublings + 1).min(PAUSE_DOUBLINGS_MAX) } else { 0 };
        self.root.paused = true;
        out.push(Action::Pause(PAUSE_MIN * (1 << self.root.doublings)));
    }

    /// Answers the requests that `wave`, the second of a pair, confirms.
    fn declare(&mut self, wave: u64, out: &mut Vec<Action>) {
        let me = self.me;
        let asked = &mut self.asked;
        self.root.requests.retain(|request| {
            if request.since > wave {
                return true;
            }
            let id = request.id;
            if request.from == me {
                asked.retain(|&r| r != id);
                out.push(Action::Fire { request: id });
            } else {
                out.push(Action::Send(request.from, Signal::Done { request: id }));
            }
            false
        });
    }

    /// The pause is over.
    pub(crate) fn resume(&mut self, out: &mut Vec<Action>) {
        self.root.paused = false;
        if self.wave.is_none() && !self.root.requests.is_empty() {
            self.begin(self.newest + 1, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A piece of work: it creates others as long as it has fuel. `birth` is the number of the request before which it, or the work that created it,
    /// was made.
    #[derive(Clone, Copy, Debug)]
    struct Work {
        birth: usize,
        fuel: u8,
    }

    #[derive(Clone, Copy, Debug)]
    enum Packet {
        Work(Work),
        Signal(Signal),
    }

    /// All PEs of a job, and the signals in flight between them, in no order.
    struct World {
        parts: Vec<Quiescence>,
        sums: Vec<Sums>,
        queues: Vec<Vec<Work>>,
        on_way: Vec<(Pe, Pe, Packet)>,
        paused: bool,
        /// Pieces of work that exist, by birth.
        live: Vec<usize>,
        /// The PE that made each request, and its number there.
        requests: Vec<(Pe, u64)>,
        fired: Vec<bool>,
        /// These numbers choose what happens next; when they are used up, zeros do.
        choices: std::vec::IntoIter<u16>,
    }

    impl World {
        fn new(layout: &Layout, choices: Vec<u16>) -> Self {
            let pes = layout.pes();
            Self {
                parts: (0..pes).map(|pe| Quiescence::new(layout, Pe(pe))).collect(),
                sums: vec![Sums::default(); pes as usize],
                queues: vec![Vec::new(); pes as usize],
                on_way: Vec::new(),
                paused: false,
                live: Vec::new(),
                requests: Vec::new(),
                fired: Vec::new(),
                choices: choices.into_iter(),
            }
        }

        fn choose(&mut self, of: usize) -> usize {
            usize::from(self.choices.next().unwrap_or(0)) % of
        }

        fn make_work(&mut self, at: usize, work: Work) {
            let to = self.choose(self.parts.len());
            self.sums[at].sent += 1;
            self.live[work.birth] += 1;
            if to == at {
                self.queues[at].push(work);
            } else {
                self.on_way.push((pe(at), pe(to), Packet::Work(work)));
            }
        }

        fn act(&mut self, at: usize, actions: Vec<Action>) {
            for action in actions {
                match action {
                    Action::Send(to, signal) => {
                        assert_ne!(to, pe(at));
                        let (tag, bytes, len) = signal.encode();
                        let signal = Signal::decode(tag, &bytes[..len]).unwrap();
                        self.on_way.push((pe(at), to, Packet::Signal(signal)));
                    }
                    Action::Pause(time) => {
                        assert!(!std::mem::replace(&mut self.paused, true) && time <= Duration::from_millis(2));
                    }
                    Action::Fire { request } => {
                        let asked = self.requests.iter().position(|&r| r == (pe(at), request)).unwrap();
                        assert!(!std::mem::replace(&mut self.fired[asked], true), "a request is answered once");
                        let alive: usize = self.live[..=asked].iter().sum();
                        assert_eq!(alive, 0, "all that was going on when it was made has ended");
                    }
                }
            }
        }

        /// PE `at` creates `pieces` of work, and makes a request for quiescence.
        fn ask(&mut self, at: usize, pieces: u8, fuel: u8) {
            let birth = self.live.len();
            self.live.push(0);
            (0..pieces).for_each(|_| self.make_work(at, Work { birth, fuel }));
            self.fired.push(false);
            let mut actions = Vec::new();
            let request = self.parts[at].ask(&mut actions);
            self.requests.push((pe(at), request));
            self.act(at, actions);
        }

        /// One thing happens. If the choices are used up, it is of the first kind listed here, so that all work ends.
        fn step(&mut self) -> bool {
            let busy: Vec<usize> = (0..self.parts.len()).filter(|&at| !self.queues[at].is_empty()).collect();
            let idle: Vec<usize> = (0..self.parts.len())
                .filter(|&at| self.queues[at].is_empty() && self.parts[at].waits_for_idle())
                .collect();
            let is_work = |at: &usize| matches!(self.on_way[*at].2, Packet::Work(_));
            let (work, signals): (Vec<usize>, Vec<usize>) = (0..self.on_way.len()).partition(is_work);
            // The kind is chosen first, so that waves keep up with any amount of work.
            let kinds = [busy.len(), work.len(), signals.len(), idle.len(), usize::from(self.paused)];
            let possible: Vec<usize> = (0..kinds.len()).filter(|&kind| kinds[kind] > 0).collect();
            if possible.is_empty() {
                return false;
            }
            let kind = possible[self.choose(possible.len())];
            let which = self.choose(kinds[kind]);
            match kind {
                0 => self.work(busy[which]),
                1 => self.arrive(work[which]),
                2 => self.arrive(signals[which]),
                3 => {
                    let (at, mut actions) = (idle[which], Vec::new());
                    self.parts[at].idle(self.sums[at], &mut actions);
                    self.act(at, actions);
                }
                _ => {
                    let mut actions = Vec::new();
                    self.paused = false;
                    self.parts[0].resume(&mut actions);
                    self.act(0, actions);
                }
            }
            true
        }

        fn work(&mut self, at: usize) {
            let work = self.queues[at].remove(0);
            for _ in 0..self.choose(3) {
                if let Some(fuel) = work.fuel.checked_sub(1) {
                    self.make_work(at, Work { fuel, ..work });
                }
            }
            self.sums[at].processed += 1;
            self.live[work.birth] -= 1;
        }

        fn arrive(&mut self, which: usize) {
            let (from, to, packet) = self.on_way.remove(which);
            match packet {
                Packet::Work(work) => self.queues[to.index()].push(work),
                Packet::Signal(signal) => {
                    let mut actions = Vec::new();
                    self.parts[to.index()].signal(from, signal, &mut actions).unwrap();
                    self.act(to.index(), actions);
                }
            }
        }
    }

    fn pe(at: usize) -> Pe {
        Pe(u32::try_from(at).unwrap())
    }

    fn layout() -> impl Strategy<Value = Layout> {
        prop::collection::vec(prop::collection::vec(1u32..4, 1..3), 1..4).prop_map(|hosts| {
            let pes: Vec<u32> = hosts.iter().flatten().copied().collect();
            Layout::new(&pes, &hosts.iter().map(|h| u32::try_from(h.len()).unwrap()).collect::<Vec<_>>())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn each_request_is_answered_once_and_not_before_all_that_preceded_it_has_ended(
            layout in layout(),
            requests in prop::collection::vec((any::<u32>(), 1u8..4, 0u8..5, 0usize..60), 1..8),
            choices in prop::collection::vec(any::<u16>(), 500..1500),
        ) {
            let mut world = World::new(&layout, choices);
            for (at, pieces, fuel, steps) in requests {
                world.ask((at % layout.pes()) as usize, pieces, fuel);
                for _ in 0..steps {
                    world.step();
                }
            }
            let mut steps = 0;
            while world.step() {
                steps += 1;
                prop_assert!(steps < 100_000, "waves without end");
            }
            prop_assert!(world.fired.iter().all(|&f| f));
            prop_assert_eq!(world.live.iter().sum::<usize>(), 0);
        }

        #[test]
        fn any_bytes_are_a_signal_or_a_violation_and_never_a_panic(
            from in 0u32..5, tag in 0xE0u8..=0xEF, bytes in prop::collection::vec(any::<u8>(), 0..32)
        ) {
            let mut part = Quiescence::new(&Layout::one_host(4, 2), Pe(2));
            if let Ok(signal) = Signal::decode(Tag(tag), &bytes) {
                let _ = part.signal(Pe(from), signal, &mut Vec::new());
            }
        }
    }

    #[test]
    fn signals_out_of_turn_are_violations() {
        let layout = Layout::one_host(3, 3);
        let (mut root, mut leaf) = (Quiescence::new(&layout, Pe(0)), Quiescence::new(&layout, Pe(1)));
        let check = |part: &mut Quiescence, from, signal, expected| {
            assert_eq!(part.signal(Pe(from), signal, &mut Vec::new()), expected, "{signal:?}");
        };
        let (sums, wave) = (Sums::default(), 1);
        check(&mut leaf, 0, Signal::Ask { request: 1 }, Err(Violation::Ask));
        check(&mut leaf, 2, Signal::Down { wave }, Err(Violation::Down));
        check(&mut leaf, 0, Signal::Down { wave: 0 }, Err(Violation::Down));
        check(&mut leaf, 0, Signal::Down { wave }, Ok(()));
        check(&mut leaf, 0, Signal::Down { wave: 2 }, Err(Violation::Down));
        check(&mut leaf, 0, Signal::Done { request: 1 }, Err(Violation::Done));
        check(&mut root, 1, Signal::Up { wave, sums }, Err(Violation::Up));
        check(&mut root, 2, Signal::Ask { request: 7 }, Ok(()));
        check(&mut root, 1, Signal::Up { wave, sums }, Ok(()));
        check(&mut root, 1, Signal::Up { wave, sums }, Err(Violation::Up));
        check(&mut root, 2, Signal::Up { wave: 2, sums }, Err(Violation::Up));
    }
}
