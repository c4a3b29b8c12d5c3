//! The waiting tasks of a PE, and what they wait for: for reports of deadlocks. All of it is computed on request; nothing is kept that the waiting
//! itself does not need.
//!
//! A task has a name (an entry method of an element, `main`), and what it waits for is found by the waker that it has stored there: in a future's
//! slot, or in a mailbox. A waker that is in neither is held by something that this runtime does not know: another thread, which may wake the task at
//! any time, or a channel between tasks. Such a task waits for the *outside*.
//!
//! A front in another language has waits and names of its own, which it reports itself ([`super::front::Front`]): then the runtime's waits, which
//! represent them, are not reported.

use std::fmt;

use charm4rs_scheduler::{TaskId, WakerKey};
use charm4rs_transport::Pe;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::Rt;

/// A waiting task, and what it waits for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Wait {
    pe: Pe,
    line: String,
}

impl Wait {
    pub(super) fn pe(&self) -> Pe {
        self.pe
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PE {}: {}", self.pe, self.line)
    }
}

/// What the parts of a PE know of waiting tasks.
#[derive(Default)]
pub(crate) struct Waiting {
    names: HashMap<TaskId, String, foldhash::fast::FixedState>,
    /// With the number of times that each waker was found.
    awaited: HashMap<WakerKey, Vec<String>, foldhash::fast::FixedState>,
}

impl Waiting {
    /// Records the name of a task.
    pub(super) fn name(&mut self, task: TaskId, name: String) {
        self.names.insert(task, name);
    }

    /// A task has stored a waker where it waits for `what`.
    pub(super) fn awaits(&mut self, key: WakerKey, what: String) {
        self.awaited.entry(key).or_default().push(what);
    }
}

/// All waiting tasks of this PE, in no order, and whether one of them waits for the outside.
pub(crate) fn all(rt: Rt) -> (Vec<Wait>, bool) {
    let mut known = Waiting::default();
    let collections: Vec<_> = rt.collections.borrow().values().copied().collect();
    collections.into_iter().for_each(|members| members.waiting(rt, &mut known));
    for (key, what) in rt.futures.awaited() {
        known.awaits(key, what.to_string());
    }
    let mut outside = false;
    let waits = rt.sched.suspended().into_iter().map(|task| {
        let awaited = known.awaited.remove(&task.key).unwrap_or_default();
        let foreign = task.wakers > awaited.len();
        outside |= foreign;
        let who = match known.names.remove(&task.id) {
            Some(name) => name,
            None if rt.main.get() == Some(task.id) => "main".to_owned(),
            None => "a spawned future".to_owned(),
        };
        let what = match (awaited.split_first(), foreign) {
            (None, false) => "something that will never happen".to_owned(),
            (None, true) => "something unknown to the runtime".to_owned(),
            (Some((first, [])), _) => first.clone(),
            (Some((first, more)), _) => format!("{first} and {} more", more.len()),
        };
        Wait { pe: rt.sched.pe(), line: format!("{who} waits for {what}") }
    });
    let waits = waits.collect();
    match rt.front.get() {
        Some(front) => {
            let (lines, of_front) = front.waits();
            let waits = lines.into_iter().map(|line| Wait { pe: rt.sched.pe(), line });
            (waits.collect(), outside || of_front)
        }
        None => (waits, outside),
    }
}
