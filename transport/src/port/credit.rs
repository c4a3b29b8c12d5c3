//! Credit: how far a sender may run ahead of a receiver, in bytes that lie in the receiver's queue or on the way there.
//!
//! # The rule
//! Each message counts: its bytes, its payloads, and [`BASE`] for its place in a queue. The sender adds the cost to its *debt* to that receiver when the
//! message leaves. The receiver's user says when it has *taken* a message out of its queue ([`Port::took`](super::Port::took)); its cost is
//! then *owed* to the sender, and goes back in steps of a quarter of the credit, as one small frame. A message may leave while the debt
//! stays within the credit, or is below one step: the receiver may keep nearly a step indefinitely, and a message longer than the credit must leave
//! at some time. So the receiver's queue and the wire hold at most the credit and one message of each sender, in small messages and in payloads,
//! on every backend.
//!
//! Three kinds of messages cost nothing: those of a PE to itself; *system messages* ([`Tag::is_system`](super::Tag::is_system)), which their receiver handles
//! while it polls and never queues; and notices of puts into a put window, of which one is on its way at a time.
//!
//! A message whose arguments are moved between threads owns memory that its bytes do not show. Its sender states that memory as a *weight*
//! ([`Charge::weighing`]), which travels with the message.
//!
//! # What a sender does without credit
//! *It waits*, if it may block, and receives meanwhile, as it does for capacity in a backend: arrivals move into its memory, which the credit of its own
//! senders bounds. It delivers nothing meanwhile.
//!
//! *It holds the message*, if it may not block: the message stays in the sender's memory, behind those that are held for the same
//! receiver already, and leaves from a poll once there is credit. A layer above that can suspend the producer
//! holds one message and resumes the producer when it has left ([`Port::hold_from_now`](super::Port::hold_from_now)).
//!
//! # Why a wait ends
//! A PE that is not waiting runs its calls, each of which ends, so it takes what is queued and gives credit back; a PE that ends takes everything. Only PEs
//! that wait for each other in a circle never take anything: each has calls for the others in its queue, and is in the middle of a call that cannot be
//! suspended. A waiting PE waits for exactly one other, so such a circle can be found by one message that follows it (the single-resource case of Chandy,
//! Misra and Haas, "Distributed deadlock detection", 1983): a PE that has waited for a while sends a *probe* with its name and the number of the wait to the
//! PE that it waits for. A waiting PE passes a probe on to the PE that it waits for; any other drops it. A probe that returns to its sender during the same
//! wait proves the circle. The last PE to begin its wait finds all others waiting, so its probe returns; a probe that meets no waiting PE is repeated, so
//! none has to be remembered.
//!
//! The PE that finds the circle stops waiting: it holds its message, and as many more as one more credit allows, before it waits again. Its call continues
//! and ends, it takes calls again, and so the others continue too. (If credit was in flight when the probe passed, the circle is not a real one: then the
//! sender holds messages without need, which costs memory and nothing else.) So the bound has one exception, and no other is possible: calls that flood each
//! other without returning need memory for what they send, since none of them can run before another has ended.
//!
//! No further case needs an argument of its own. Calls of a PE to itself never wait. Cycles of calls are the circles above. Broadcasts, reductions, replies
//! and creations are messages of ordinary calls: a PE that forwards them may wait as any sender does, and takes nothing meanwhile, so the flood stops at its
//! source. A suspended task does not wait: its PE continues.

use std::cell::Cell;
use std::rc::Rc;

use charm4rs_transport_core::Pe;

/// The cost of a message besides its bytes: its place in the receiver's queue, and the block it lies in.
pub(super) const BASE: u64 = 64;
/// Weights are counted in units of this many bytes.
const UNIT: u64 = 4096;

/// How a message counts against its sender's credit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Charge(u16);

impl Charge {
    /// It does not count.
    pub const NONE: Self = Self(0);
    /// It counts with its bytes and its payloads.
    pub const PLAIN: Self = Self(1);

    /// It counts, and additionally owns `bytes` of memory. Less than 4 KiB does not count; 256 MiB is the most that counts.
    #[inline]
    #[must_use]
    pub fn weighing(bytes: usize) -> Self {
        if (bytes as u64) < UNIT { Self::PLAIN } else { Self::heavy(bytes as u64) }
    }

    #[cold]
    fn heavy(bytes: u64) -> Self {
        Self::of_units(u16::try_from(bytes / UNIT).unwrap_or(u16::MAX))
    }

    /// The weight's units, as they are sent.
    pub(super) fn units(self) -> u16 {
        self.0.saturating_sub(1)
    }

    /// The inverse of [`Self::units`].
    pub(super) fn of_units(units: u16) -> Self {
        Self(units.saturating_add(1))
    }

    /// Whether a weight travels with the message.
    #[inline]
    pub(super) fn is_heavy(self) -> bool {
        self.0 > 1
    }

    /// The cost of a message with this many bytes, payloads included.
    #[inline]
    pub(super) fn cost(self, bytes: u64) -> u64 {
        match self.0 {
            0 => 0,
            n => bytes.wrapping_add(BASE + u64::from(n - 1) * UNIT),
        }
    }
}

/// The balance between a PE and one peer, in bytes.
#[derive(Default, Debug)]
struct Account {
    /// Sent to the peer, and not given back.
    debt: Cell<u64>,
    /// Taken from the peer, and not given back.
    owed: Cell<u64>,
}

/// The accounts of a PE with all others. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Accounts {
    peers: Rc<[Account]>,
    credit: u64,
    /// Credit is given back once more than this is owed.
    step: u64,
}

impl Accounts {
    pub(super) fn new(pes: u32, credit: u64) -> Self {
        let peers = (0..pes).map(|_| Account::default()).collect();
        Self { peers, credit, step: (credit / 4).max(1) }
    }

    /// Adds to the debt to `to`, if the credit allows it.
    #[inline]
    pub(super) fn charge(&self, to: Pe, cost: u64) -> bool {
        let account = &self.peers[to.index()];
        let debt = account.debt.get().wrapping_add(cost);
        if debt > self.credit && account.debt.get() >= self.step {
            return false;
        }
        account.debt.set(debt);
        true
    }

    /// Adds to the debt to `to` whether or not the credit allows it.
    pub(super) fn charge_anyway(&self, to: Pe, cost: u64) {
        let account = &self.peers[to.index()];
        account.debt.set(account.debt.get().wrapping_add(cost));
    }

    /// A message that was charged will not arrive.
    pub(super) fn refund(&self, to: Pe, cost: u64) {
        let account = &self.peers[to.index()];
        account.debt.set(account.debt.get().saturating_sub(cost));
    }

    /// A peer has closed: the credit of messages to it does not come back.
    pub(super) fn forgive(&self, to: Pe) {
        self.peers[to.index()].debt.set(0);
    }

    /// A peer gives credit back. `false`: more than it was sent.
    pub(super) fn give_back(&self, from: Pe, bytes: u64) -> bool {
        let account = &self.peers[from.index()];
        let left = account.debt.get().checked_sub(bytes);
        left.inspect(|&left| account.debt.set(left)).is_some()
    }

    /// A message of a peer was taken. Returns whether enough is owed to give it back.
    #[inline]
    pub(super) fn take(&self, from: Pe, cost: u64) -> bool {
        let account = &self.peers[from.index()];
        account.owed.set(account.owed.get().wrapping_add(cost));
        account.owed.get() >= self.step
    }

    /// As [`Accounts::take`], for a message that may not count.
    #[inline]
    pub(super) fn took(&self, message: &super::Incoming) -> bool {
        message.charge != Charge::NONE && self.take(message.from, message.cost())
    }

    /// The credit owed to a peer, which must be sent now.
    pub(super) fn due(&self, to: Pe) -> u64 {
        self.peers[to.index()].owed.take()
    }

    /// The debt to a peer.
    #[cfg(test)]
    pub(super) fn debt(&self, to: Pe) -> u64 {
        self.peers[to.index()].debt.get()
    }

    /// The credit owed to a peer.
    #[cfg(test)]
    pub(super) fn owed(&self, to: Pe) -> u64 {
        self.peers[to.index()].owed.get()
    }

    /// The most that a PE may owe a receiver.
    pub(super) fn credit(&self) -> u64 {
        self.credit
    }
}

/// The PE's part of the accounts for the scheduler's queue, which takes messages while the port is in use elsewhere.
#[derive(Clone, Debug)]
pub struct Ledger(pub(super) Accounts);

impl Ledger {
    /// A message was taken out of the queue. `true`: credit is due, which [`Port::give_credit_to`](super::Port::give_credit_to) sends.
    #[inline]
    #[must_use]
    pub fn took(&self, message: &super::Incoming) -> bool {
        self.0.took(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_stays_within_the_credit_and_below_a_step_any_message_may_leave() {
        let accounts = Accounts::new(2, 1000);
        let to = Pe(1);
        assert!(accounts.charge(to, 5000), "nothing is owed: any length");
        assert!(!accounts.charge(to, 1));
        assert!(accounts.give_back(to, 4751) && accounts.charge(to, 10_000), "below a step: any length");
        assert!(!accounts.give_back(to, 10_250), "more than was sent");
        assert!(accounts.give_back(to, 9750) && accounts.debt(to) == 499);
        assert!(accounts.charge(to, 501) && !accounts.charge(to, 1));
    }

    #[test]
    fn credit_goes_back_in_steps() {
        let accounts = Accounts::new(2, 1000);
        assert!(!accounts.take(Pe(0), 249) && accounts.take(Pe(0), 1));
        assert_eq!((accounts.due(Pe(0)), accounts.due(Pe(0))), (250, 0));
    }

    #[test]
    fn a_weight_is_the_same_at_both_ends() {
        for bytes in [0, 1, 4095, 4096, 100_000, 300 << 20, usize::MAX] {
            let charge = Charge::weighing(bytes);
            assert_eq!(charge.is_heavy(), bytes >= 4096);
            assert_eq!(Charge::of_units(charge.units()), charge, "{bytes}");
            let weight = charge.cost(0) - BASE;
            assert!(weight <= bytes as u64 && (weight + UNIT > bytes as u64 || weight >= 255 << 20), "{bytes}");
        }
        assert_eq!(Charge::NONE.cost(1000), 0);
    }
}
