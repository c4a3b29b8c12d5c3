//! Messages over datagrams: each arrives once, whole, and in order, although the wire loses, duplicates, reorders and damages datagrams.
//!
//! This is a state machine without a socket and without a clock: datagrams and the time come in as arguments, and go out
//! as values. It does not know what a message means, nor what carries a datagram.
//!
//! # The protocol
//! A message is cut into *fragments* of at most a datagram, numbered from 0 for the life of the [`Connection`]. The last one of a message is marked. Every
//! datagram carries what its sender has received: `ack`, the lowest number that is missing, and `sack`, a bit for each of the 64 numbers after it. Fragments
//! that arrive early wait in a window of 64; fragments beyond it are dropped. So a peer decides nothing about memory but the length of one message, which has
//! a limit.
//!
//! The sender keeps a fragment until it is acknowledged. It sends one again
//! - if another one that was *sent later* by more than a quarter of a round trip has been acknowledged (the first is lost, or so late
//!   that it does not matter), or
//! - if no acknowledgement came for a retransmission timeout, which follows the measured round trip (RFC 6298) and doubles while
//!   nothing is acknowledged.
//!
//! The window of fragments in flight is halved at each timeout and grows by one per round trip.
//!
//! Why each is delivered exactly once: a fragment is accepted when its number is first seen in the window, and never below `ack`,
//! and the window moves only over accepted ones. Why all are delivered: until its number is acknowledged, a fragment has
//! either a timer or a place in the queue of lost ones. Lost acknowledgements are repeated, since every copy of a
//! known fragment is answered with one.
//!
//! # The datagram (little endian)
//! | bytes | |
//! |---|---|
//! | 0..4 | CRC-32 of both ends' names (so a misdirected datagram is a corrupt one) and of all that follows |
//! | 4 | flags: 1 carries a fragment, 2 the last of its message |
//! | 5..13 | `ack` |
//! | 13..21 | `sack` |
//! | 21..29 | the fragment's number (0 if there is none) |
//! | 29.. | the fragment |

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::collections::{BTreeMap, VecDeque};

/// Bytes of a datagram that do not belong to the message.
pub const HEADER: usize = 29;

/// Most fragments in flight: as many as `sack` covers.
const WINDOW: usize = 64;

const FRAGMENT: u8 = 1;
const LAST: u8 = 2;

/// The settings, which must be the same at both ends.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest datagram, in bytes.
    pub datagram_max: usize,
    /// Largest message, in bytes.
    pub message_max: usize,
    /// Shortest retransmission timeout, in nanoseconds.
    pub timeout_ns_min: u64,
    /// Longest retransmission timeout, in nanoseconds.
    pub timeout_ns_max: u64,
}

/// The result of a received datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// It had new information.
    Taken,
    /// It had no new information.
    Known,
    /// It was damaged, or misdirected, and was ignored.
    Corrupt,
    /// It is intact, and breaks the protocol: the peer is faulty.
    Violation(&'static str),
}

/// Counters of a connection.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    /// Fragments sent for the first time.
    pub fragments: u64,
    /// Fragments sent again.
    pub repeats: u64,
    /// Datagrams that were damaged.
    pub corrupt: u64,
    /// Fragments that arrived again.
    pub doubles: u64,
}

#[derive(Debug)]
struct Flight {
    data: Box<[u8]>,
    last: bool,
    sent_ns: u64,
    tries: u32,
    acked: bool,
    lost: bool,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    settings: Settings,
    names: [u32; 2],
    counters: Counters,
    // Outgoing.
    backlog: VecDeque<Vec<u8>>,
    cursor: usize,
    base: u64,
    flight: VecDeque<Flight>,
    window: usize,
    acked_in_window: usize,
    round_trip_ns: Option<(u64, u64)>,
    backoff: u32,
    unacknowledged: usize,
    heard_ns: u64,
    // Incoming.
    expected: u64,
    early: BTreeMap<u64, (bool, Box<[u8]>)>,
    assembly: Vec<u8>,
    ack_due: bool,
}

impl Connection {
    /// The end of `ours` towards `theirs`.
    ///
    /// # Panics
    /// If a datagram has no space for data.
    #[must_use]
    pub fn new(settings: Settings, ours: u32, theirs: u32) -> Self {
        assert!(settings.datagram_max > HEADER, "a datagram carries more than its header");
        Self {
            settings,
            names: [ours, theirs],
            counters: Counters::default(),
            backlog: VecDeque::new(),
            cursor: 0,
            base: 0,
            flight: VecDeque::new(),
            window: 16,
            acked_in_window: 0,
            round_trip_ns: None,
            backoff: 0,
            unacknowledged: 0,
            heard_ns: 0,
            expected: 0,
            early: BTreeMap::new(),
            assembly: Vec::new(),
            ack_due: false,
        }
    }

    /// Queues a message; [`Connection::output`] returns its datagrams.
    ///
    /// # Panics
    /// If it is longer than the settings allow.
    pub fn send(&mut self, now_ns: u64, message: Vec<u8>) {
        assert!(message.len() <= self.settings.message_max, "a message of {} bytes", message.len());
        if self.idle() {
            self.heard_ns = now_ns;
        }
        self.unacknowledged += message.len();
        self.backlog.push_back(message);
    }

    /// Whether everything sent has been acknowledged.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.backlog.is_empty() && self.flight.is_empty()
    }

    /// Bytes of messages that are not acknowledged yet.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    /// How long the peer has acknowledged nothing although something is in flight.
    #[must_use]
    pub fn silence_ns(&self, now_ns: u64) -> u64 {
        if self.idle() { 0 } else { now_ns.saturating_sub(self.heard_ns) }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn sum(names: [u32; 2], bytes: &[u8]) -> u32 {
        let [from, to] = names.map(u32::to_le_bytes);
        let mut sum = crc32fast::Hasher::new();
        [&from, &to, bytes].into_iter().for_each(|part| sum.update(part));
        sum.finalize()
    }

    // ---- inwards -------------------------------------------------------------------------------------------

    /// Handles a received datagram, and appends the messages that it completes.
    pub fn input(&mut self, now_ns: u64, datagram: &[u8], delivered: &mut Vec<Vec<u8>>) -> Input {
        let [ours, theirs] = self.names;
        let Some((header, data)) = Header::read(datagram, [theirs, ours]) else {
            self.counters.corrupt += 1;
            return Input::Corrupt;
        };
        let news = match self.acknowledged(now_ns, header.ack, header.sack) {
            Ok(news) => news,
            Err(what) => return Input::Violation(what),
        };
        if header.flags & FRAGMENT == 0 {
            return if news { Input::Taken } else { Input::Known };
        }
        self.ack_due = true;
        let ahead = header.number.checked_sub(self.expected);
        let is_new = ahead.is_some_and(|ahead| ahead < WINDOW as u64) && !self.early.contains_key(&header.number);
        if !is_new {
            self.counters.doubles += 1;
            return if news { Input::Taken } else { Input::Known };
        }
        self.early.insert(header.number, (header.flags & LAST != 0, data.into()));
        while let Some((last, data)) = self.early.remove(&self.expected) {
            self.expected += 1;
            if self.assembly.len() + data.len() > self.settings.message_max {
                return Input::Violation("a message is too long");
            }
            self.assembly.extend_from_slice(&data);
            if last {
                delivered.push(std::mem::take(&mut self.assembly));
            }
        }
        Input::Taken
    }

    /// Removes the fragments that the peer has. True if there are new ones.
    fn acknowledged(&mut self, now_ns: u64, ack: u64, sack: u64) -> Result<bool, &'static str> {
        let next = self.base + self.flight.len() as u64;
        let highest = (ack + 1).saturating_add(63 - u64::from(sack.leading_zeros().min(63)));
        if ack > next || (sack != 0 && highest >= next) {
            return Err("it acknowledges fragments that were never sent");
        }
        let bits = (0..64).filter(|bit| sack >> bit & 1 == 1).map(|bit| ack + 1 + bit);
        let mut newest_ns = None;
        for number in (self.base..ack).chain(bits) {
            let Some(at) = number.checked_sub(self.base) else { continue };
            let at = usize::try_from(at).expect("below the window");
            let flight = &mut self.flight[at];
            if std::mem::replace(&mut flight.acked, true) {
                continue;
            }
            let (sent_ns, tries) = (flight.sent_ns, flight.tries);
            self.unacknowledged -= flight.data.len();
            newest_ns = newest_ns.max(Some(sent_ns));
            if tries == 1 {
                // If a fragment was sent twice, it is unknown which copy was answered (Karn).
                self.measured(now_ns.saturating_sub(sent_ns));
            }
            self.acked_in_window += 1;
        }
        while self.flight.front().is_some_and(|flight| flight.acked) {
            self.flight.pop_front();
            self.base += 1;
        }
        let Some(newest_ns) = newest_ns else { return Ok(false) };
        self.heard_ns = now_ns;
        self.backoff = 0;
        if self.acked_in_window >= self.window {
            self.acked_in_window = 0;
            self.window = (self.window + 1).min(WINDOW);
        }
        let patience_ns = self.round_trip_ns.map_or(self.settings.timeout_ns_min, |(smooth, _)| smooth / 4);
        for flight in self.flight.iter_mut().filter(|flight| !flight.acked) {
            flight.lost |= flight.sent_ns.saturating_add(patience_ns) < newest_ns;
        }
        Ok(true)
    }

    fn measured(&mut self, sample_ns: u64) {
        self.round_trip_ns = Some(match self.round_trip_ns {
            None => (sample_ns, sample_ns / 2),
            Some((smooth, varies)) => {
                let varies = varies - varies / 4 + smooth.abs_diff(sample_ns) / 4;
                (smooth - smooth / 8 + sample_ns / 8, varies)
            }
        });
    }

    fn timeout_ns(&self) -> u64 {
        let Settings { timeout_ns_min, timeout_ns_max, .. } = self.settings;
        let measured = self.round_trip_ns.map_or(0, |(smooth, varies)| smooth.saturating_add(4 * varies));
        measured.max(timeout_ns_min).saturating_mul(1 << self.backoff.min(20)).min(timeout_ns_max)
    }

    // ---- outwards ------------------------------------------------------------------------------------------

    /// The next datagram to send; `None`: there is none before [`Connection::wake_ns`], or before another input.
    pub fn output(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        self.expire(now_ns);
        if let Some(at) = self.flight.iter().position(|flight| flight.lost && !flight.acked) {
            self.counters.repeats += 1;
            return Some(self.datagram(now_ns, Some(at)));
        }
        if self.flight.len() < self.window && self.next_fragment() {
            self.counters.fragments += 1;
            return Some(self.datagram(now_ns, Some(self.flight.len() - 1)));
        }
        self.ack_due.then(|| self.datagram(now_ns, None))
    }

    /// The latest time at which [`Connection::output`] must be called again.
    #[must_use]
    pub fn wake_ns(&self) -> Option<u64> {
        let oldest = self.flight.iter().filter(|flight| !flight.acked).map(|flight| flight.sent_ns).min()?;
        Some(oldest.saturating_add(self.timeout_ns()))
    }

    fn expire(&mut self, now_ns: u64) {
        if self.wake_ns().is_none_or(|at| at > now_ns) {
            return;
        }
        let timeout_ns = self.timeout_ns();
        for flight in self.flight.iter_mut().filter(|flight| !flight.acked) {
            flight.lost |= flight.sent_ns.saturating_add(timeout_ns) <= now_ns;
        }
        self.backoff += 1;
        self.window = (self.window / 2).max(4);
        self.acked_in_window = 0;
    }

    /// Cuts the next fragment off the backlog.
    fn next_fragment(&mut self) -> bool {
        let room = self.settings.datagram_max - HEADER;
        let Some(message) = self.backlog.front() else { return false };
        let rest = &message[self.cursor..];
        let data: Box<[u8]> = rest[..rest.len().min(room)].into();
        let last = data.len() == rest.len();
        if last {
            self.backlog.pop_front();
            self.cursor = 0;
        } else {
            self.cursor += data.len();
        }
        self.flight.push_back(Flight { data, last, sent_ns: 0, tries: 0, acked: false, lost: false });
        true
    }

    fn datagram(&mut self, now_ns: u64, at: Option<usize>) -> Vec<u8> {
        self.ack_due = false;
        let sack = self.early.keys().fold(0, |sack, number| sack | 1 << (number - self.expected - 1));
        let mut header = Header { flags: 0, ack: self.expected, sack, number: 0 };
        let mut data: &[u8] = &[];
        if let Some(at) = at {
            let flight = &mut self.flight[at];
            flight.sent_ns = now_ns;
            flight.tries += 1;
            flight.lost = false;
            header.flags = FRAGMENT | if flight.last { LAST } else { 0 };
            header.number = self.base + at as u64;
            data = &flight.data;
        }
        header.write(data, self.names)
    }
}

#[derive(Clone, Copy, Debug)]
struct Header {
    flags: u8,
    ack: u64,
    sack: u64,
    number: u64,
}

impl Header {
    fn write(self, data: &[u8], names: [u32; 2]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(HEADER + data.len());
        datagram.extend_from_slice(&[0; 4]);
        datagram.push(self.flags);
        for field in [self.ack, self.sack, self.number] {
            datagram.extend_from_slice(&field.to_le_bytes());
        }
        datagram.extend_from_slice(data);
        let sum = Connection::sum(names, &datagram[4..]);
        datagram[..4].copy_from_slice(&sum.to_le_bytes());
        datagram
    }

    fn read(datagram: &[u8], names: [u32; 2]) -> Option<(Self, &[u8])> {
        let (sum, rest) = datagram.split_first_chunk()?;
        if u32::from_le_bytes(*sum) != Connection::sum(names, rest) {
            return None;
        }
        let (&flags, rest) = rest.split_first()?;
        let (ack, rest) = rest.split_first_chunk()?;
        let (sack, rest) = rest.split_first_chunk()?;
        let (number, data) = rest.split_first_chunk()?;
        let [ack, sack, number] = [ack, sack, number].map(|field| u64::from_le_bytes(*field));
        // Counting never reaches numbers near the end of 64 bits: sums with them must not overflow.
        let sane = ack < u64::MAX / 2 && number < u64::MAX / 2;
        sane.then_some((Self { flags, ack, sack, number }, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use charm4rs_transport_core::seed::{self, Rng};

    fn settings() -> Settings {
        Settings { datagram_max: 200, message_max: 1 << 20, timeout_ns_min: 20_000, timeout_ns_max: 5_000_000 }
    }

    /// Two ends and a wire between them, which decides what happens to each datagram.
    struct Pair {
        ends: [Connection; 2],
        wire: BTreeMap<(u64, u64), (usize, Vec<u8>)>,
        now_ns: u64,
        count: u64,
        delivered: [Vec<Vec<u8>>; 2],
    }

    impl Pair {
        fn new() -> Self {
            Self {
                ends: [Connection::new(settings(), 1, 2), Connection::new(settings(), 2, 1)],
                wire: BTreeMap::new(),
                now_ns: 0,
                count: 0,
                delivered: [vec![], vec![]],
            }
        }

        fn put(&mut self, at_ns: u64, to: usize, datagram: Vec<u8>) {
            self.count += 1;
            self.wire.insert((at_ns, self.count), (to, datagram));
        }

        /// Runs until nothing is in flight, or nothing arrives any more.
        fn run(&mut self, mut fate: impl FnMut(Vec<u8>) -> Vec<(u64, Vec<u8>)>) {
            for _ in 0..2_000_000 {
                for from in 0..2 {
                    while let Some(datagram) = self.ends[from].output(self.now_ns) {
                        for (delay_ns, datagram) in fate(datagram) {
                            self.put(self.now_ns + delay_ns, 1 - from, datagram);
                        }
                    }
                }
                let timers = self.ends.iter().filter_map(Connection::wake_ns);
                let Some(next) = timers.chain(self.wire.keys().map(|key| key.0).take(1)).min() else { return };
                assert!(next >= self.now_ns, "time goes on");
                self.now_ns = next;
                while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= next) {
                    let (to, datagram) = entry.remove();
                    let input = self.ends[to].input(next, &datagram, &mut self.delivered[to]);
                    assert!(!matches!(input, Input::Violation(_)), "{input:?}");
                }
                if self.ends.iter().any(|end| end.silence_ns(next) > 1_000_000_000) {
                    return;
                }
            }
            panic!("the run does not end");
        }
    }

    fn messages(rng: &mut Rng, count: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|_| {
                let len = if rng.chance(0.1) { rng.below(10_000) } else { rng.below(300) };
                (0..len).map(|_| rng.next_u64().to_le_bytes()[0]).collect()
            })
            .collect()
    }

    #[test]
    fn lost_duplicated_reordered_and_damaged_datagrams_change_no_message() {
        seed::for_each(200, |seed| {
            let mut rng = Rng::new(seed);
            let mut pair = Pair::new();
            let sent = [messages(&mut rng, 60), messages(&mut rng, 60)];
            for (end, messages) in pair.ends.iter_mut().zip(&sent) {
                messages.iter().for_each(|message| end.send(0, message.clone()));
            }
            pair.run(|mut datagram| {
                if rng.chance(0.3) {
                    return vec![];
                }
                let double = rng.chance(0.1).then(|| datagram.clone());
                if rng.chance(0.1) {
                    let bit = rng.below(datagram.len() * 8);
                    datagram[bit / 8] ^= 1 << (bit % 8);
                }
                [Some(datagram), double].into_iter().flatten().map(|d| (rng.range(1_000..30_000), d)).collect()
            });
            assert!(pair.delivered[1] == sent[0] && pair.delivered[0] == sent[1], "all messages, once, in order");
            assert!(pair.ends.iter().all(|end| end.idle() && end.unacknowledged() == 0));
        });
    }

    #[test]
    fn a_perfect_wire_carries_no_fragment_twice() {
        let mut pair = Pair::new();
        let sent = messages(&mut Rng::new(1), 300);
        sent.iter().for_each(|message| pair.ends[0].send(0, message.clone()));
        pair.run(|datagram| vec![(5_000, datagram)]);
        assert!(pair.delivered[1] == sent);
        assert_eq!((pair.ends[0].counters().repeats, pair.ends[1].counters().doubles), (0, 0));
    }

    #[test]
    fn a_dead_wire_shows_as_silence() {
        let mut pair = Pair::new();
        pair.ends[0].send(0, vec![1, 2, 3]);
        pair.run(|_| vec![]);
        assert!(pair.ends[0].silence_ns(pair.now_ns) > 1_000_000_000);
        assert_eq!(pair.ends[1].silence_ns(pair.now_ns), 0, "an end that waits for nothing measures no silence");
    }

    #[test]
    fn damaged_and_forged_datagrams_are_corrupt_or_a_violation_and_never_panic() {
        let mut end = Connection::new(settings(), 1, 2);
        let mut delivered = vec![];
        let good = Header { flags: FRAGMENT | LAST, ack: 0, sack: 0, number: 0 }.write(b"hello", [2, 1]);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(end.input(0, &bad, &mut delivered), Input::Corrupt);
        }
        for len in 0..good.len() {
            assert_eq!(end.input(0, &good[..len], &mut delivered), Input::Corrupt);
        }
        let astray = Header { flags: 0, ack: 0, sack: 0, number: 0 }.write(&[], [3, 1]);
        assert_eq!(end.input(0, &astray, &mut delivered), Input::Corrupt);
        let mut rng = Rng::new(9);
        for _ in 0..10_000 {
            let mut field = || rng.next_u64() >> rng.below(64);
            let header = Header { flags: field().to_le_bytes()[0], ack: field(), sack: field(), number: field() };
            let _ = end.input(0, &header.write(b"x", [2, 1]), &mut delivered);
        }
        let boast = Header { flags: 0, ack: 1, sack: 0, number: 0 }.write(&[], [2, 1]);
        assert!(matches!(end.input(0, &boast, &mut delivered), Input::Violation(_)));
    }

    #[test]
    fn a_peer_does_not_decide_how_much_memory_a_message_takes() {
        let mut end = Connection::new(Settings { message_max: 1_000, ..settings() }, 1, 2);
        let mut delivered = vec![];
        let endless = (0..).map(|number| Header { flags: FRAGMENT, ack: 0, sack: 0, number }.write(&[0; 150], [2, 1]));
        let inputs: Vec<Input> = endless.take(8).map(|d| end.input(0, &d, &mut delivered)).collect();
        assert_eq!(inputs[..6], [Input::Taken; 6]);
        assert!(matches!(inputs[6], Input::Violation(_)));
    }
}
