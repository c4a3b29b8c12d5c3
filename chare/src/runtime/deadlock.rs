//! Deadlock detection: nothing runs, no message is in flight, no event is pending, and a task waits.
//!
//! # Protocol
//! PE 0 searches when its process tells it to ([`search`]), which happens once PE 0 has been idle for a while: so a busy job pays nothing. A question
//! goes down a tree to all PEs, and each answers at once, busy or not, with its state ([`Status`](charm4rs_scheduler::Status)) and its waiting tasks;
//! the answers are added up on their way back. A search that has not ended, because a PE computes and does not answer, is not begun again.
//!
//! Two consecutive searches that find every PE settled, with equal sums and as many messages sent as processed, are two waves of quiescence: when the
//! first ended, the job was quiescent. (The waves of `quiescence` itself would wait for busy PEs, and answer the program's requests; a search does
//! neither.) Quiescence that the program has requested is a pending event, so a PE that has requested it is not settled. Only tasks are left, and
//! other threads that could wake them. If a waker of any task is held by something unknown to this runtime, the search reports nothing.
//!
//! The messages are system messages, so that they neither disturb quiescence nor end the idleness of a PE.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::Duration;

use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;
use serde::{Deserialize, Serialize};

use super::lacking::Lacking;
use super::waiting::{self, Wait};
use super::{Rt, tree};
use crate::message::envelope::{HEADER, Header, tag};
use crate::message::wire;

/// The number of waiting tasks that are reported.
const TOLD: usize = 16;

/// The root of the tree.
const FIRST: Pe = Pe(0);

/// The answer of a subtree.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
struct SearchPart {
    /// How long all of its PEs have been idle, in nanoseconds; `None` if one is not idle, or has a pending event.
    idle_ns: Option<u64>,
    /// A task waits for something outside of the job.
    outside: bool,
    sent: u64,
    processed: u64,
    turns: u64,
    waiting: u64,
    told: Vec<Wait>,
    lacking: Lacking,
}

impl SearchPart {
    fn of(rt: Rt) -> Self {
        let standing = rt.sched.status();
        let idle = standing.idle_for.filter(|_| standing.settled);
        // While the PE is busy, its waiting tasks do not matter.
        let (mut told, outside) = if idle.is_some() { waiting::all(rt) } else { (Vec::new(), false) };
        let waiting = told.len() as u64;
        told.truncate(TOLD);
        Self {
            idle_ns: idle.map(|idle| u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX)),
            outside,
            sent: standing.sent,
            processed: standing.processed,
            turns: standing.turns,
            waiting,
            told,
            lacking: if idle.is_some() { Lacking::of(rt) } else { Lacking::default() },
        }
    }

    fn add(&mut self, other: Self) {
        self.idle_ns = self.idle_ns.zip(other.idle_ns).map(|(a, b)| a.min(b));
        self.outside |= other.outside;
        self.sent = self.sent.wrapping_add(other.sent);
        self.processed = self.processed.wrapping_add(other.processed);
        self.turns = self.turns.wrapping_add(other.turns);
        self.waiting = self.waiting.saturating_add(other.waiting);
        let room = TOLD.saturating_sub(self.told.len());
        self.told.extend(other.told.into_iter().take(room));
        self.lacking.add(other.lacking);
    }

    fn may_be_stuck(&self) -> bool {
        self.idle_ns.is_some() && !self.outside && self.sent == self.processed && self.waiting > 0
    }

    fn sums(&self) -> [u64; 3] {
        [self.sent, self.processed, self.turns]
    }
}

#[derive(Serialize, Deserialize)]
enum SearchMessage {
    Ask { search: u64 },
    Answer { search: u64, part: SearchPart },
}

/// A PE's state of the searches.
#[derive(Default)]
pub(crate) struct Search {
    number: Cell<u64>,
    /// The current search: the children that have not answered, and the sum of the other answers and this PE's own.
    open: RefCell<Option<(Vec<Pe>, SearchPart)>>,
    /// At PE 0: the sums of the previous search, if it could be a deadlock.
    before: Cell<Option<[u64; 3]>>,
    /// At PE 0: all deadlocks found.
    #[cfg(test)]
    pub(crate) found: RefCell<Vec<Deadlock>>,
}

/// A deadlock.
#[derive(Clone, Debug)]
pub struct Deadlock {
    /// How long all PEs have been idle.
    pub idle_for: Duration,
    /// Distinguishes two deadlocks of a job.
    pub(crate) sums: [u64; 3],
    waiting: u64,
    told: Vec<Wait>,
    /// What collections lack, one line each.
    lacking: Vec<String>,
}

impl Deadlock {
    /// The PE of the first waiting task.
    pub(crate) fn pe(&self) -> Option<Pe> {
        self.told.first().map(Wait::pe)
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.idle_for.as_secs_f64();
        write!(
            f,
            "deadlock: all PEs have been idle for {seconds:.1} s, no message is in flight, waiting tasks: {}",
            self.waiting
        )?;
        self.told.iter().try_for_each(|wait| write!(f, "\n  {wait}"))?;
        let more = self.waiting.saturating_sub(self.told.len() as u64);
        if more > 0 {
            write!(f, "\n  and {more} more")?;
        }
        self.lacking.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// On PE 0: begins a search, unless one is in progress.
pub(crate) fn search(rt: Rt) {
    if rt.deadlock.open.borrow().is_none() && rt.sched.stopping().is_none() {
        asked(rt, rt.deadlock.number.get() + 1);
    }
}

fn send(rt: Rt, to: Pe, step: &SearchMessage) {
    rt.with_scratch(|bytes| {
        wire::pack(step, bytes).expect("numbers and texts can be packed");
        let header = Header::of_job(rt.sched.pe());
        rt.sched.send_system(to, tag::DEADLOCK, HEADER + bytes.len(), |room| header.fill(bytes, room));
    });
}

/// A message of a search has arrived.
pub(super) fn step(rt: Rt, msg: &Incoming) {
    let parent = tree(rt, FIRST).parent(rt.sched.pe());
    let search_here = &rt.deadlock;
    let expected = match wire::unpack::<SearchMessage>(&msg.msg[HEADER..], Vec::new()) {
        Ok(SearchMessage::Ask { search }) if parent == Some(msg.from) && search_here.open.borrow().is_none() => {
            asked(rt, search);
            true
        }
        Ok(SearchMessage::Answer { search, part }) => {
            search == search_here.number.get() && answered(rt, msg.from, part)
        }
        _ => false,
    };
    if !expected {
        rt.violation(msg.from, "an unexpected message of a deadlock search", msg.msg.len() as u64);
    }
}

fn asked(rt: Rt, search: u64) {
    rt.deadlock.number.set(search);
    let children: Vec<Pe> = tree(rt, FIRST).children(rt.sched.pe()).collect();
    children.iter().for_each(|&child| send(rt, child, &SearchMessage::Ask { search }));
    *rt.deadlock.open.borrow_mut() = Some((children, SearchPart::of(rt)));
    pass_on_if_complete(rt);
}

/// Adds an answer. Returns whether one was expected from this PE.
fn answered(rt: Rt, from: Pe, part: SearchPart) -> bool {
    {
        let mut open = rt.deadlock.open.borrow_mut();
        let Some((missing, sum)) = &mut *open else { return false };
        let Some(at) = missing.iter().position(|child| *child == from) else { return false };
        missing.swap_remove(at);
        sum.add(part);
    }
    pass_on_if_complete(rt);
    true
}

fn pass_on_if_complete(rt: Rt) {
    let Some((_, part)) = rt.deadlock.open.borrow_mut().take_if(|(missing, _)| missing.is_empty()) else { return };
    match tree(rt, FIRST).parent(rt.sched.pe()) {
        Some(parent) => send(rt, parent, &SearchMessage::Answer { search: rt.deadlock.number.get(), part }),
        None => judge(rt, part),
    }
}

/// At PE 0: all PEs have answered.
fn judge(rt: Rt, part: SearchPart) {
    let stuck = part.may_be_stuck().then(|| part.sums());
    let before = rt.deadlock.before.replace(stuck);
    let (Some(sums), Some(idle_ns)) = (stuck.filter(|_| before == stuck), part.idle_ns) else { return };
    let SearchPart { waiting, mut told, lacking, .. } = part;
    told.sort_by_key(Wait::pe);
    let found = Deadlock { idle_for: Duration::from_nanos(idle_ns), sums, waiting, told, lacking: lacking.lines() };
    rt.host.deadlock(&found);
    #[cfg(test)]
    rt.deadlock.found.borrow_mut().push(found);
}
