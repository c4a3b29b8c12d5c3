//! How a PE and a peer part: the states of a goodbye, for backends whose network does not report the end of a peer.
//!
//! A PE that closes says goodbye to every peer that it has communicated with, after everything that it sent. The peer sends nothing any more, and
//! confirms: then everything before the goodbye has arrived. A PE that hears a goodbye of a peer to which it has said goodbye itself need not wait for the
//! confirmation: the peer reads no more. A peer that is *lost* has ended without goodbye, or after it.

/// The state of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Parting {
    said: bool,
    heard: bool,
    confirmed: bool,
    lost: bool,
}

impl Parting {
    /// This PE says goodbye.
    pub fn say(&mut self) {
        self.said = true;
    }

    /// The peer says goodbye.
    pub fn hear(&mut self) {
        self.heard = true;
    }

    /// The peer confirms this PE's goodbye. `false`: this PE has not said goodbye.
    #[must_use]
    pub fn confirm(&mut self) -> bool {
        self.confirmed |= self.said;
        self.said
    }

    /// The peer cannot be reached any more.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Whether the peer has said goodbye.
    #[must_use]
    pub fn has_heard(self) -> bool {
        self.heard
    }

    /// Whether the peer has said goodbye and was not lost since.
    #[must_use]
    pub fn has_closed(self) -> bool {
        self.heard && !self.lost
    }

    /// Whether the peer was lost.
    #[must_use]
    pub fn is_lost(self) -> bool {
        self.lost
    }

    /// Whether posts no longer reach the peer.
    #[must_use]
    pub fn is_gone(self) -> bool {
        self.lost || self.heard
    }

    /// Whether the peer has confirmed this PE's goodbye.
    #[must_use]
    pub fn is_confirmed(self) -> bool {
        self.confirmed
    }

    /// Whether this PE waits for the peer's confirmation.
    #[must_use]
    pub fn awaits_confirmation(self) -> bool {
        self.said && !self.confirmed && !self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_gone_after_its_goodbye_and_when_it_is_lost() {
        let mut parting = Parting::default();
        assert!(!parting.is_gone());
        parting.hear();
        assert!(parting.is_gone() && parting.has_heard() && !parting.is_lost());
        let mut parting = Parting::default();
        parting.lose();
        assert!(parting.is_gone() && !parting.has_heard() && parting.is_lost());
    }

    #[test]
    fn a_goodbye_is_confirmed_only_after_it_was_said() {
        let mut parting = Parting::default();
        assert!(!parting.confirm() && !parting.is_confirmed() && !parting.awaits_confirmation());
        parting.say();
        assert!(
            parting.awaits_confirmation()
                && parting.confirm()
                && parting.is_confirmed()
                && !parting.awaits_confirmation()
        );
        let mut parting = Parting::default();
        parting.say();
        parting.lose();
        assert!(!parting.awaits_confirmation());
    }
}
