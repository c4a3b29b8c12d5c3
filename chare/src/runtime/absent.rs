//! Calls, and markers on their way, for elements that are not on this PE: they wait until it is known where those are, or that they will not come.

use std::cell::{Cell, RefCell};

use charm4rs_scheduler::Handler;
use charm4rs_transport::port::Incoming;
use hashbrown::HashMap;

use super::Rt;
use super::collection::Key;

/// See the module's text.
#[derive(Default)]
pub(super) struct Absent {
    calls: RefCell<HashMap<Key, Calls, foldhash::fast::FixedState>>,
    /// What is delivered is for elements that will not come.
    gives_up: Cell<bool>,
}

struct Calls {
    all: Vec<Incoming>,
    /// How many of them were here at the last note, and at the one before.
    noted: [usize; 2],
    /// Somebody has been asked where the element is, and will answer.
    asked: bool,
}

impl Absent {
    pub(super) fn is_empty(&self) -> bool {
        self.calls.borrow().is_empty()
    }

    pub(super) fn add(&self, element: Key, msg: Incoming, asked: bool) {
        let mut calls = self.calls.borrow_mut();
        let calls = calls.entry(element).or_insert_with(|| Calls { all: Vec::new(), noted: [0, 0], asked });
        calls.all.push(msg);
        calls.asked = asked;
    }

    /// Takes those for one element.
    pub(super) fn take(&self, element: &Key) -> Vec<Incoming> {
        self.calls.borrow_mut().remove(element).map(|calls| calls.all).unwrap_or_default()
    }

    pub(super) fn take_all(&self) -> Vec<Incoming> {
        self.calls.take().into_values().flat_map(|calls| calls.all).collect()
    }

    /// Notes which are here.
    pub(super) fn note(&self) {
        for calls in self.calls.borrow_mut().values_mut() {
            calls.noted = [calls.all.len(), calls.noted[0]];
        }
    }

    /// Takes those that were here at the last note but one, except for elements that somebody has been asked for.
    fn take_noted(&self) -> Vec<Incoming> {
        let mut taken = Vec::new();
        self.calls.borrow_mut().retain(|_, calls| {
            let [last, before] = calls.noted;
            if !calls.asked {
                taken.extend(calls.all.drain(..before));
                calls.noted = [last - before, 0];
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
    pub(super) fn counts(&self) -> Vec<(Key, usize)> {
        self.calls.borrow().iter().map(|(element, calls)| (element.clone(), calls.all.len())).collect()
    }

    /// Whether an element that is not here yet will not come.
    pub(super) fn gives_up(&self) -> bool {
        self.gives_up.get()
    }

    /// Delivers those for one element: at once, as [`super::Runtime::release`] does.
    pub(super) fn wake(&self, rt: Rt, element: &Key) {
        deliver(rt, self.take(element));
    }

    /// Delivers all.
    pub(super) fn wake_all(&self, rt: Rt) {
        deliver(rt, self.take_all());
    }

    /// No insertion is on its way that was begun before the last note but one: what was here then, and is for elements that are not, waits for nothing, and
    /// fails. Says whether others wait.
    pub(super) fn give_up(&self, rt: Rt) -> bool {
        self.gives_up.set(true);
        deliver(rt, self.take_noted());
        self.gives_up.set(false);
        self.is_any()
    }
}

fn deliver(rt: Rt, calls: Vec<Incoming>) {
    calls.into_iter().for_each(|msg| super::Driver(rt).deliver(msg));
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
    fn those_are_given_up_that_were_here_at_two_notes_and_have_not_been_taken_since() {
        let (absent, [seven, eight, nine]) = (Absent::default(), [7, 8, 9].map(|element| vec![element]));
        let noted = || numbers(&absent.take_noted());
        absent.add(seven.clone(), call(1), false);
        absent.add(nine.clone(), call(9), true);
        absent.note();
        absent.add(seven.clone(), call(2), false);
        absent.add(eight, call(3), false);
        absent.note();
        absent.add(seven.clone(), call(4), false);
        assert_eq!(noted(), [1]);
        assert_eq!(noted(), []);
        absent.note();
        assert_eq!(noted(), [2, 3]);
        assert_eq!(numbers(&absent.take(&seven)), [4]);
        assert!(!absent.is_any(), "of the ninth it will be told");
        absent.note();
        absent.add(seven.clone(), call(5), false);
        absent.note();
        assert_eq!(noted(), [], "it was not here at the note before");
        assert!(absent.is_any() && absent.counts().contains(&(seven, 1)));
        assert_eq!((numbers(&absent.take(&nine)), numbers(&absent.take_all())), (vec![9], vec![5]));
        assert!(absent.is_empty());
    }
}
