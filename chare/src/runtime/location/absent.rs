//! Calls, and markers on their way, for elements that are not on this PE: they wait until the element's location is known, or that it will not exist.

use std::cell::{Cell, RefCell};

use charm4rs_scheduler::Handler;
use charm4rs_transport::port::Incoming;
use hashbrown::HashMap;

use crate::runtime::Rt;
use crate::runtime::collection::Key;

/// See the module's text.
#[derive(Default)]
pub(in crate::runtime) struct Absent {
    calls: RefCell<HashMap<Key, Calls, foldhash::fast::FixedState>>,
    /// The messages being delivered are for elements that will not exist.
    gives_up: Cell<bool>,
    /// The number of census rounds that have asked this PE.
    rounds: Cell<u64>,
}

#[derive(Default)]
struct Calls {
    /// In the order of arrival, each with the number of rounds at that time.
    all: Vec<(u64, Incoming)>,
    /// The element's location was requested, and there will be an answer.
    asked: bool,
}

impl Calls {
    fn messages(self) -> impl Iterator<Item = Incoming> {
        self.all.into_iter().map(|(_, msg)| msg)
    }
}

impl Absent {
    pub(in crate::runtime) fn is_empty(&self) -> bool {
        self.calls.borrow().is_empty()
    }

    pub(in crate::runtime) fn add(&self, element: Key, msg: Incoming, asked: bool) {
        let mut calls = self.calls.borrow_mut();
        let calls = calls.entry(element).or_default();
        calls.all.push((self.rounds.get(), msg));
        calls.asked = asked;
    }

    /// Takes the messages for one element.
    pub(super) fn take(&self, element: &Key) -> Vec<Incoming> {
        let calls = self.calls.borrow_mut().remove(element);
        calls.into_iter().flat_map(Calls::messages).collect()
    }

    pub(in crate::runtime) fn take_all(&self) -> Vec<Incoming> {
        self.calls.take().into_values().flat_map(Calls::messages).collect()
    }

    /// A census round asks this PE.
    pub(in crate::runtime) fn ask(&self) {
        self.rounds.set(self.rounds.get() + 1);
    }

    /// The number of such rounds.
    pub(in crate::runtime) fn rounds(&self) -> u64 {
        self.rounds.get()
    }

    /// Takes the messages that arrived before the previous round, except for elements whose location was requested.
    fn take_before(&self, round: u64) -> Vec<Incoming> {
        let mut taken = Vec::new();
        self.calls.borrow_mut().retain(|_, calls| {
            if !calls.asked {
                let before = calls.all.partition_point(|(rounds, _)| rounds.saturating_add(2) <= round);
                taken.extend(calls.all.drain(..before).map(|(_, msg)| msg));
            }
            !calls.all.is_empty()
        });
        taken
    }

    /// Whether there are messages, except for such elements.
    fn is_any(&self) -> bool {
        self.calls.borrow().values().any(|calls| !calls.asked)
    }

    /// The number of messages for each element.
    pub(in crate::runtime) fn counts(&self) -> Vec<(Key, usize)> {
        self.calls.borrow().iter().map(|(element, calls)| (element.clone(), calls.all.len())).collect()
    }

    /// Whether an element that is not here yet will not exist.
    pub(in crate::runtime) fn gives_up(&self) -> bool {
        self.gives_up.get()
    }

    /// Delivers the messages for one element: at once, as [`crate::runtime::Runtime::release`] does.
    pub(in crate::runtime) fn wake(&self, rt: Rt, element: &Key) {
        deliver(rt, self.take(element));
    }

    /// Delivers all messages.
    pub(in crate::runtime) fn wake_all(&self, rt: Rt) {
        deliver(rt, self.take_all());
    }

    /// A census has settled with this round: messages that arrived before the round before it, for elements that do not exist, wait in vain and fail.
    /// Returns whether others wait.
    pub(in crate::runtime) fn give_up(&self, rt: Rt, round: u64) -> bool {
        self.gives_up.set(true);
        deliver(rt, self.take_before(round));
        self.gives_up.set(false);
        self.is_any()
    }

    /// Resets this for a new collection. The waiting messages were taken before.
    pub(in crate::runtime) fn renew(&self) {
        self.rounds.set(0);
    }
}

fn deliver(rt: Rt, calls: Vec<Incoming>) {
    calls.into_iter().for_each(|msg| crate::runtime::Dispatcher(rt).deliver(msg));
}

#[cfg(test)]
mod tests {
    use charm4rs_transport::Pe;
    use charm4rs_transport::port::{Charge, Tag};
    use charm4rs_transport::{Payloads, RegBuf};

    use super::*;

    fn call(number: u8) -> Incoming {
        let msg = RegBuf::from_vec(vec![number]).into();
        Incoming { from: Pe(0), tag: Tag(0), msg, payloads: Payloads::default(), charge: Charge::PLAIN }
    }

    fn numbers(calls: &[Incoming]) -> Vec<u8> {
        let mut numbers: Vec<_> = calls.iter().map(|call| call.msg[0]).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn messages_that_arrived_before_the_last_two_rounds_of_a_verdict_are_given_up_whenever_it_arrives() {
        let (absent, [seven, eight, nine]) = (Absent::default(), [7, 8, 9].map(|element| vec![element]));
        let before = |round| numbers(&absent.take_before(round));
        absent.add(seven.clone(), call(1), false);
        absent.add(nine.clone(), call(9), true);
        absent.ask();
        absent.add(seven.clone(), call(2), false);
        absent.add(eight, call(3), false);
        absent.ask();
        absent.add(seven.clone(), call(4), false);
        // Two more rounds, of the next census, come before the verdict of the first.
        absent.ask();
        absent.ask();
        assert_eq!((before(1), before(2)), (vec![], vec![1]));
        assert!(before(2).is_empty());
        assert_eq!(before(3), [2, 3]);
        assert_eq!(numbers(&absent.take(&seven)), [4]);
        assert!(!absent.is_any(), "the location of the ninth was requested");
        absent.add(seven.clone(), call(5), false);
        assert_eq!((before(5), absent.rounds()), (vec![], 4));
        assert!(absent.is_any() && absent.counts().contains(&(seven, 1)));
        assert_eq!((numbers(&absent.take(&nine)), numbers(&absent.take_all())), (vec![9], vec![5]));
        assert!(absent.is_empty());
    }
}
