//! Which single chares have been created on this PE: a call may overtake the creation of its chare, since the chare's proxy travels between PEs on
//! other paths, and must then wait; a call that comes after the chare's end must not wait.
//!
//! Every PE numbers the single chares that it creates on each other PE. So their home needs to keep only how many of each creator's have been
//! created, and the few that arrived out of order.

use std::cell::RefCell;

use charm4rs_transport::Pe;
use hashbrown::HashMap;

use super::intervals::Intervals;

type PerPe<V> = RefCell<HashMap<Pe, V, foldhash::fast::FixedState>>;

/// See the module's text.
#[derive(Default)]
pub(super) struct Solos {
    /// The next number of those created from here, by home.
    next: PerPe<u64>,
    /// Those created here, by creator.
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

    /// A chare has been created here.
    pub(super) fn note(&self, creator: Pe, serial: u64) {
        self.made.borrow_mut().entry(creator).or_default().insert(serial);
    }

    /// Whether it has ever been created here.
    pub(super) fn made(&self, creator: Pe, serial: u64) -> bool {
        self.made.borrow().get(&creator).is_some_and(|made| made.contains(serial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chares_created_out_of_order_are_remembered() {
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
