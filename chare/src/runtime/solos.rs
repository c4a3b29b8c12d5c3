//! Which single chares have been made on this PE: a call may overtake the making of its chare, since the chare's name travels
//! from PE to PE by other ways, and must then wait; one that comes after the chare's end must not.
//!
//! Every PE numbers the single chares that it makes on each other PE. So their home needs to keep no more than how many of each
//! creator's have been made, and the few that came before their turn.

use std::cell::RefCell;

use charm4rs_transport::Pe;
use hashbrown::HashMap;

use super::intervals::Intervals;

type PerPe<V> = RefCell<HashMap<Pe, V, foldhash::fast::FixedState>>;

/// See the module's text.
#[derive(Default)]
pub(super) struct Solos {
    /// The next number of those made from here, by home.
    next: PerPe<u64>,
    /// Those made here, by creator.
    made: PerPe<Intervals>,
}

impl Solos {
    /// The number of a new chare on `home`.
    pub(super) fn next(&self, home: Pe) -> u64 {
        let mut next = self.next.borrow_mut();
        let next = next.entry(home).or_default();
        *next += 1;
        *next - 1
    }

    /// A chare has been made here.
    pub(super) fn note(&self, creator: Pe, serial: u64) {
        self.made.borrow_mut().entry(creator).or_default().insert(serial);
    }

    /// Whether it has ever been made here.
    pub(super) fn made(&self, creator: Pe, serial: u64) -> bool {
        self.made.borrow().get(&creator).is_some_and(|made| made.contains(serial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_made_before_their_turn_are_remembered_until_it_comes() {
        let solos = Solos::default();
        assert_eq!([solos.next(Pe(1)), solos.next(Pe(1)), solos.next(Pe(2))], [0, 1, 0]);
        solos.note(Pe(3), 1);
        solos.note(Pe(3), 2);
        let made = |serial| solos.made(Pe(3), serial);
        assert_eq!([made(0), made(1), made(2), made(3)], [false, true, true, false]);
        solos.note(Pe(3), 0);
        assert_eq!([made(0), made(1), made(2), made(3)], [true, true, true, false]);
        assert!(solos.made.borrow()[&Pe(3)].runs() == 1 && !solos.made(Pe(4), 0));
    }
}
