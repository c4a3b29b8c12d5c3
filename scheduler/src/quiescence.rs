//! How a job learns that it has nothing left to do: no message on its way, queued or being processed, no counted timer
//! pending, no hold. Suspended tasks do not count: nothing is left that could resume them.
//!
//! # Algorithm
//! The counting algorithm of Sinha, Kalé and Ramkumar ("A dynamic and adaptive quiescence detection algorithm", 1993),
//! which is Mattern's four-counter method over a spanning tree.
//!
//! Every PE counts the messages it ever sent and ever processed. (So that one rule covers all, setting a timer, taking
//! a hold and queueing a remote closure count as sent; firing, dropping and running it as processed.) PE 0 is the root
//! of a [`Tree`]. It collects *waves*: `Down` goes from the root to all PEs; each PE waits until it is *idle* (its
//! queues are empty, no task is ready, no counted timer pends, no hold is held) and its children have answered, then
//! answers `Up` with the sums over its subtree. One wave is on its way at a time.
//!
//! The job is declared quiescent when two consecutive waves give the same sums, and in them sent = processed.
//!
//! # Why that is right
//! Let the first wave end at time t1 (the root has all answers), and the second start after t1. A PE's counters only
//! grow, so equal sums mean that no PE's counters moved between its two samples, and every PE's first sample is taken
//! before t1, the second after it. So at t1 each PE's counters are what both waves say. Messages on their way at t1
//! number sent - processed at t1 = 0. Each PE was idle at its first sample and has done nothing counted since, and only
//! something counted (a message, a timer, a closure, a wake from another thread) can end idleness: so at t1 every
//! PE is idle. Nothing that exists at t1 can start anything: the job is quiescent, and stays so until something comes
//! from outside.
//!
//! # Requests
//! Any PE may ask at any time; the request goes to the root. It is answered by a pair of waves of which the first
//! *started after the request arrived*: what the asker sent before it asked is then in the asker's counters of both
//! waves. So each request carries the number of the first wave that counts for it. `Done` goes back to the asker.
//!
//! # Cost
//! While nobody asks there are no waves: two counters per message. A wave costs two small messages per PE. A PE
//! that is busy delays the wave rather than answering "not yet", so waves do not spin while the job computes, nor while
//! a timer or a hold keeps it. Only while all are idle and a message is still on its way are waves repeated; the
//! root then pauses, 10 us doubled up to 1 ms while the sums stand still.
//!
//! This file is the state machine alone: it knows nothing of ports, and says what to do as [`Action`]s.

use std::time::Duration;

use charm4rs_transport::port::Tag;
use charm4rs_transport::{Layout, Pe};

use crate::Tree;

/// How many children a PE has at most on each level of the tree.
const FANOUT: u32 = 4;

const PAUSE_MIN: Duration = Duration::from_micros(10);
const PAUSE_DOUBLINGS_MAX: u32 = 7;

/// Messages ever sent and ever processed.
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

/// What PEs say to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    /// To the root: tell me when the job is quiescent.
    Ask { request: u64 },
    /// To a child: a wave begins.
    Down { wave: u64 },
    /// To the parent: the sums of my subtree.
    Up { wave: u64, sums: Sums },
    /// To the asker: it is.
    Done { request: u64 },
}

/// The scheduler's own tags.
const ASK: u8 = 0xE0;
const DOWN: u8 = 0xE1;
const UP: u8 = 0xE2;
const DONE: u8 = 0xE3;

/// The longest signal, in bytes.
pub(crate) const SIGNAL_MAX: usize = 24;

impl Signal {
    /// Its tag, its bytes, and how many of them.
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
    /// A tag of the scheduler's that means nothing.
    Tag,
    /// More or fewer bytes than the signal has.
    Length,
    /// `Down` from one that is not the parent, during a wave, or with the wrong number.
    Down,
    /// `Up` from one that is not a child, twice, or for another wave.
    Up,
    /// `Ask` to one that is not the root.
    Ask,
    /// `Done` for what was not asked.
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

/// What the scheduler is to do.
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
    /// The first wave that counts for it.
    since: u64,
}

/// What only the root keeps.
#[derive(Debug, Default)]
struct Root {
    requests: Vec<Request>,
    /// The wave before the current one, and its sums.
    last: Option<(u64, Sums)>,
    paused: bool,
    doublings: u32,
}

/// One PE's part in the algorithm; see the module's text.
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

    /// Asks. The request's number comes back in [`Action::Fire`].
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

    /// Whether a call of [`Quiescence::idle`] would do anything.
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

    /// The root notes a request, and starts a wave unless one is on its way or due.
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
                self.declare(wave - 1, out);
            }
            if !self.root.requests.is_empty() {
                self.begin(wave + 1, out);
            }
            return;
        }
        // All are idle, yet something is on its way.
        self.root.doublings = if same { (self.root.doublings + 1).min(PAUSE_DOUBLINGS_MAX) } else { 0 };
        self.root.paused = true;
        out.push(Action::Pause(PAUSE_MIN * (1 << self.root.doublings)));
    }

    /// Answers the requests for which `first`, the first wave of a pair, counts.
    fn declare(&mut self, first: u64, out: &mut Vec<Action>) {
        let me = self.me;
        let asked = &mut self.asked;
        self.root.requests.retain(|request| {
            if request.since > first {
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
