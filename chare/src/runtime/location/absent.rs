//! Calls, and markers on their way, for elements that are not on this PE: they wait until it is known where those are, or that they will not come.

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
    /// What is delivered is for elements that will not come.
    gives_up: Cell<bool>,
    /// How many rounds of censuses have asked this PE.
    rounds: Cell<u64>,
}

#[derive(Default)]
struct Calls {
    /// In the order in which they came, each with how many rounds there had been.
    all: Vec<(u64, Incoming)>,
    /// Somebody has been asked where the element is, and will answer.
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

    /// Takes those for one element.
    pub(super) fn take(&self, element: &Key) -> Vec<Incoming> {
        let calls = self.calls.borrow_mut().remove(element);
        calls.into_iter().flat_map(Calls::messages).collect()
    }

    pub(in crate::runtime) fn take_all(&self) -> Vec<Incoming> {
        self.calls.take().into_values().flat_map(Calls::messages).collect()
    }

    /// A round asks this PE.
    pub(in crate::runtime) fn ask(&self) {
        self.rounds.set(self.rounds.get() + 1);
    }

    /// How many have.
    pub(in crate::runtime) fn rounds(&self) -> u64 {
        self.rounds.get()
    }

    /// Takes those that came before the round before this one, except for elements that somebody has been asked for.
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

    /// Whether there are any, except for such elements.
    fn is_any(&self) -> bool {
        self.calls.borrow().values().any(|calls| !calls.asked)
    }

    /// For each element, how many.
    pub(in crate::runtime) fn counts(&self) -> Vec<(Key, usize)> {
        self.calls.borrow().iter().map(|(element, calls)| (element.clone(), calls.all.len())).collect()
    }

    /// Whether an element that is not here yet will not come.
    pub(in crate::runtime) fn gives_up(&self) -> bool {
        self.gives_up.get()
    }

    /// Delivers those for one element: at once, as [`crate::runtime::Runtime::release`] does.
    pub(in crate::runtime) fn wake(&self, rt: Rt, element: &Key) {
        deliver(rt, self.take(element));
    }

    /// Delivers all.
    pub(in crate::runtime) fn wake_all(&self, rt: Rt) {
        deliver(rt, self.take_all());
    }

    /// A census has settled with this round: what had come before the round before it, and is for elements that are not there, waits for nothing, and
    /// fails. Says whether others wait.
    pub(in crate::runtime) fn give_up(&self, rt: Rt, round: u64) -> bool {
        self.gives_up.set(true);
        deliver(rt, self.take_before(round));
        self.gives_up.set(false);
        self.is_any()
    }

    /// As of a new collection. What waits was taken before.
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
    fn those_are_given_up_that_came_before_the_last_two_rounds_of_a_verdict_whenever_that_arrives() {
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
        assert!(!absent.is_any(), "of the ninth it will be told");
        absent.add(seven.clone(), call(5), false);
        assert_eq!((before(5), absent.rounds()), (vec![], 4));
        assert!(absent.is_any() && absent.counts().contains(&(seven, 1)));
        assert_eq!((numbers(&absent.take(&nine)), numbers(&absent.take_all())), (vec![9], vec![5]));
        assert!(absent.is_empty());
    }
}
