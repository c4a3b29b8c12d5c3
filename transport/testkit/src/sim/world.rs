//! The network's state, and what each entry of its queue does.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::rc::Rc;

use super::config::{Config, Fault, Mode};
use super::link::{Link, Pending};
use super::network::Statistics;
use super::packet::{Head, Packet};
use crate::reliable::Input;
use charm4rs_transport_core::memory::Counted;
use charm4rs_transport_core::seed::Rng;
use charm4rs_transport_core::{Event, Pe, RegBuf, TransportError};

/// A scheduled event.
#[derive(Debug)]
enum What {
    Packet(Packet),
    Datagram {
        from: Pe,
        to: Pe,
        bytes: Vec<u8>,
    },
    /// A connection's timer, unless another one has replaced it.
    Timer {
        from: Pe,
        to: Pe,
        due_ns: u64,
    },
    /// A send no longer needs its buffer.
    Left {
        from: Pe,
        to: Pe,
        serial: u64,
    },
    /// A PE whose post was refused by chance may try again.
    Retry(Pe),
    Fault(Fault),
    /// A PE has been gone, paused, or cut off for long enough.
    DeathKnown(Pe),
    PauseKnown {
        pe: Pe,
        epoch: u64,
    },
    CutKnown {
        cut: u64,
    },
}

#[derive(Debug)]
struct Scheduled {
    at_ns: u64,
    serial: u64,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ns, self.serial).cmp(&(other.at_ns, other.serial))
    }
}

/// The state of a PE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Health {
    Alive,
    /// Stands still; the number identifies the pause.
    Paused(u64),
    /// It has closed.
    Closed,
    Dead,
}

/// A PE.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) health: Health,
    pub(super) opened: bool,
    /// Events that it has not taken yet; messages still hold their credit.
    pub(super) inbox: VecDeque<Event>,
    pub(super) windows: BTreeMap<u64, RegBuf>,
    pub(super) pool: Counted,
    listed: bool,
}

#[derive(Debug)]
struct Cut {
    number: u64,
    side: BTreeSet<Pe>,
}

/// The whole network.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: Config,
    pub(super) now_ns: Rc<Cell<u64>>,
    pub(super) rng: Rng,
    pub(super) nodes: Vec<Node>,
    pub(super) statistics: Statistics,
    pub(super) trace: u64,
    links: BTreeMap<(Pe, Pe), Link>,
    queue: BinaryHeap<Reverse<Scheduled>>,
    next_serial: u64,
    next_epoch: u64,
    cuts: Vec<Cut>,
    /// Packets that a cut or a pause delays.
    parked: Vec<Packet>,
    /// PEs to which something happened.
    ready: Vec<Pe>,
}

impl World {
    pub(super) fn new(mut config: Config) -> Self {
        let faults = std::mem::take(&mut config.faults);
        let node = || Node {
            health: Health::Alive,
            opened: false,
            inbox: VecDeque::new(),
            windows: BTreeMap::new(),
            pool: Counted::default(),
            listed: false,
        };
        let mut world = Self {
            now_ns: Rc::default(),
            rng: Rng::new(config.seed),
            nodes: (0..config.layout.pes()).map(|_| node()).collect(),
            statistics: Statistics::default(),
            trace: 0xcbf2_9ce4_8422_2325,
            links: BTreeMap::new(),
            queue: BinaryHeap::new(),
            next_serial: 0,
            next_epoch: 0,
            cuts: Vec::new(),
            parked: Vec::new(),
            ready: Vec::new(),
            config,
        };
        for (at_ns, fault) in faults {
            world.schedule(at_ns, What::Fault(fault));
        }
        world
    }

    // ---- time ----------------------------------------------------------------------------------------------

    pub(super) fn now(&self) -> u64 {
        self.now_ns.get()
    }

    fn schedule(&mut self, at_ns: u64, what: What) {
        self.next_serial += 1;
        self.queue.push(Reverse(Scheduled { at_ns, serial: self.next_serial, what }));
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse(next)| next.at_ns.max(self.now()))
    }

    /// Moves the clock to `at_ns`, and executes everything that is due by then.
    pub(super) fn advance_to(&mut self, at_ns: u64) {
        while self.queue.peek().is_some_and(|Reverse(next)| next.at_ns <= at_ns) {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now_ns.set(next.at_ns.max(self.now()));
            self.carry_out(next.what);
        }
        self.now_ns.set(at_ns.max(self.now()));
    }

    fn carry_out(&mut self, what: What) {
        match what {
            What::Packet(packet) => self.arrive(packet),
            What::Datagram { from, to, bytes } => self.datagram(from, to, &bytes),
            What::Timer { from, to, due_ns } => {
                if self.link(from, to).timer_ns == Some(due_ns) {
                    self.link(from, to).timer_ns = None;
                    self.pump(from, to);
                }
            }
            What::Left { from, to, serial } => {
                if let Some(Pending { op, buf }) = self.link(from, to).pending.remove(&serial) {
                    self.report(from, Event::Sent { op, buf });
                }
            }
            What::Retry(pe) => self.wake(pe),
            What::Fault(fault) => self.fault(&fault),
            What::DeathKnown(pe) => self.lose_by_all(pe, "its process is gone"),
            What::PauseKnown { pe, epoch } => {
                if self.nodes[pe.index()].health == Health::Paused(epoch) {
                    self.lose_by_all(pe, "unresponsive");
                }
            }
            What::CutKnown { cut } => self.cut_known(cut),
        }
    }

    /// Adds an event to the hash of the trace.
    fn note(&mut self, fields: [u64; 4]) {
        for field in fields.into_iter().chain([self.now()]) {
            self.trace = (self.trace ^ field).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    // ---- PEs -----------------------------------------------------------------------------------------------

    pub(super) fn link(&mut self, from: Pe, to: Pe) -> &mut Link {
        self.links.entry((from, to)).or_insert_with(|| Link::new(&self.config, from, to))
    }

    /// Tells the driver of the PEs that this one has something to do.
    pub(super) fn wake(&mut self, pe: Pe) {
        let node = &mut self.nodes[pe.index()];
        if !std::mem::replace(&mut node.listed, true) {
            self.ready.push(pe);
        }
    }

    pub(super) fn take_ready(&mut self, into: &mut Vec<Pe>) {
        for pe in self.ready.drain(..) {
            self.nodes[pe.index()].listed = false;
            into.push(pe);
        }
    }

    fn report(&mut self, pe: Pe, event: Event) {
        let node = &mut self.nodes[pe.index()];
        if matches!(node.health, Health::Alive | Health::Paused(_)) {
            node.inbox.push_back(event);
            self.wake(pe);
        }
    }

    /// Gives credit back to `from`, whose packet `to` has taken.
    pub(super) fn credit(&mut self, from: Pe, to: Pe, len: usize) {
        let link = self.link(from, to);
        link.packets -= 1;
        link.bytes -= len;
        if std::mem::take(&mut link.starved) {
            self.wake(from);
        }
    }

    /// A post was refused by chance: it may succeed soon.
    pub(super) fn refuse_by_chance(&mut self, pe: Pe) -> bool {
        let busy = self.rng.chance(self.config.busy);
        if busy {
            let at_ns = self.now() + self.rng.range(self.config.delay_ns.clone());
            self.schedule(at_ns, What::Retry(pe));
        }
        busy
    }

    pub(super) fn leave_later(&mut self, from: Pe, to: Pe, serial: u64) {
        let at_ns = self.now() + self.rng.range(self.config.delay_ns.clone());
        self.schedule(at_ns, What::Left { from, to, serial });
    }

    // ---- the wire ------------------------------------------------------------------------------------------

    fn blocked(&self, from: Pe, to: Pe) -> bool {
        matches!(self.nodes[to.index()].health, Health::Paused(_))
            || self.cuts.iter().any(|cut| cut.side.contains(&from) != cut.side.contains(&to))
    }

    fn travel_ns(&mut self, len: usize) -> u64 {
        self.rng.range(self.config.delay_ns.clone()) + len as u64 / 1_024 * self.config.kib_ns
    }

    /// Puts a packet on the wire.
    pub(super) fn transmit(&mut self, packet: Packet) {
        let (from, to, len) = (packet.from, packet.to, packet.len());
        self.note([packet.code(), u64::from(from.0) << 32 | u64::from(to.0), len as u64, 1]);
        self.statistics.packets += 1;
        self.statistics.bytes += len as u64;
        let now_ns = self.now();
        match self.config.mode {
            Mode::Datagram { .. } => {
                let bytes = packet.encode();
                if let Some(connection) = &mut self.link(from, to).connection {
                    connection.send(now_ns, bytes);
                }
                self.pump(from, to);
            }
            Mode::Reliable { reorder } => {
                let at_ns = now_ns + self.travel_ns(len);
                let overtakes = self.rng.chance(reorder);
                let is_put = matches!(packet.head, Head::Put { .. });
                let link = self.link(from, to);
                // Puts never overtake puts: the last one announces all.
                let floor_ns = if overtakes { 0 } else { link.floor_ns };
                let at_ns = at_ns.max(floor_ns).max(if is_put { link.put_floor_ns } else { 0 });
                link.floor_ns = link.floor_ns.max(at_ns);
                if is_put {
                    link.put_floor_ns = at_ns;
                }
                self.schedule(at_ns, What::Packet(packet));
            }
        }
    }

    /// Sends what a connection has to send, and sets its timer.
    fn pump(&mut self, from: Pe, to: Pe) {
        if matches!(self.nodes[from.index()].health, Health::Dead | Health::Paused(_)) {
            return;
        }
        let Some(mut connection) = self.link(from, to).connection.take() else { return };
        let now_ns = self.now();
        if connection.silence_ns(now_ns) >= self.config.dead_after_ns {
            // The connection's state is not put back: nothing is sent or accepted any more.
            return self.lose(from, to, "it acknowledges nothing");
        }
        while let Some(bytes) = connection.output(now_ns) {
            self.put_on_wire(from, to, bytes);
        }
        let wake_ns = connection.wake_ns();
        let link = self.link(from, to);
        link.connection = Some(connection);
        if let Some(at_ns) = wake_ns.filter(|at| link.timer_ns.is_none_or(|timer| *at < timer)) {
            link.timer_ns = Some(at_ns);
            self.schedule(at_ns.max(now_ns), What::Timer { from, to, due_ns: at_ns });
        }
    }

    fn put_on_wire(&mut self, from: Pe, to: Pe, mut bytes: Vec<u8>) {
        let Mode::Datagram { loss, duplicate, corrupt } = self.config.mode else { return };
        self.statistics.datagrams += 1;
        if self.blocked(from, to) || self.rng.chance(loss) {
            self.statistics.lost += 1;
            return;
        }
        if self.rng.chance(duplicate) {
            let at_ns = self.now() + self.travel_ns(bytes.len());
            self.schedule(at_ns, What::Datagram { from, to, bytes: bytes.clone() });
        }
        if self.rng.chance(corrupt) {
            if self.rng.chance(0.2) {
                let len = self.rng.below(bytes.len());
                bytes.truncate(len);
            } else {
                for _ in 0..=self.rng.below(3) {
                    let bit = self.rng.below(bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
        let at_ns = self.now() + self.travel_ns(bytes.len());
        self.schedule(at_ns, What::Datagram { from, to, bytes });
    }

    fn datagram(&mut self, from: Pe, to: Pe, bytes: &[u8]) {
        if self.blocked(from, to) || self.nodes[to.index()].health == Health::Dead {
            self.statistics.lost += 1;
            return;
        }
        let now_ns = self.now();
        let mut delivered = Vec::new();
        let Some(connection) = &mut self.link(to, from).connection else { return };
        match connection.input(now_ns, bytes, &mut delivered) {
            Input::Taken => {}
            Input::Known => self.statistics.known += 1,
            Input::Corrupt => self.statistics.corrupt += 1,
            Input::Violation(what) => unreachable!("PE {from} violates the protocol towards {to}: {what}"),
        }
        for bytes in delivered {
            let packet = Packet::decode(from, to, &bytes).expect("the checksum holds, and only we send");
            self.arrive(packet);
        }
        self.pump(to, from);
    }

    // ---- arrival -------------------------------------------------------------------------------------------

    fn arrive(&mut self, packet: Packet) {
        let (from, to, len) = (packet.from, packet.to, packet.len());
        self.note([packet.code(), u64::from(from.0) << 32 | u64::from(to.0), len as u64, 2]);
        let health = self.nodes[to.index()].health;
        if health == Health::Dead || self.link(to, from).lost {
            return;
        }
        if self.blocked(from, to) {
            return self.parked.push(packet);
        }
        match packet.head {
            Head::Message { .. } if health == Health::Closed => self.credit(from, to, len),
            Head::Message { imm } => {
                let msg = packet.body.expect("a message has a body, maybe an empty one");
                self.report(to, Event::Recv { from, imm, msg });
            }
            Head::Put { serial, window, offset, imm } => {
                self.credit(from, to, len);
                let done = self.write(to, window, offset, packet.body.as_deref().unwrap_or_default());
                if let (true, Some(imm)) = (done, imm) {
                    self.report(to, Event::PutArrived { from, imm });
                }
                self.transmit(Packet { from: to, to: from, head: Head::PutReply { serial, done }, body: None });
            }
            Head::Get { serial, window, offset, len } => {
                self.credit(from, to, 0);
                let body = self.read(to, window, offset, len);
                let head = Head::GetReply { serial, done: body.is_some() };
                self.transmit(Packet { from: to, to: from, head, body: body.map(Into::into) });
            }
            Head::PutReply { serial, done } => {
                if let Some(Pending { op, buf }) = self.link(to, from).pending.remove(&serial) {
                    let event = if done { Event::Sent { op, buf } } else { refused(op, buf, from) };
                    self.report(to, event);
                }
            }
            Head::GetReply { serial, done } => {
                if let Some(Pending { op, buf }) = self.link(to, from).pending.remove(&serial) {
                    let body = packet.body.as_deref().unwrap_or_default();
                    let event = match buf {
                        Some(mut buf) if done && buf.len() == body.len() => {
                            buf.copy_from_slice(body);
                            Event::Got { op, buf }
                        }
                        buf => refused(op, buf, from),
                    };
                    self.report(to, event);
                }
            }
        }
    }

    fn span(&mut self, pe: Pe, window: u64, offset: u64, len: u64) -> Option<&mut [u8]> {
        let memory = self.nodes[pe.index()].windows.get_mut(&window)?;
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        memory.get_mut(start..end)
    }

    fn write(&mut self, pe: Pe, window: u64, offset: u64, bytes: &[u8]) -> bool {
        let span = self.span(pe, window, offset, bytes.len() as u64);
        span.map(|span| span.copy_from_slice(bytes)).is_some()
    }

    fn read(&mut self, pe: Pe, window: u64, offset: u64, len: u64) -> Option<RegBuf> {
        self.span(pe, window, offset, len).map(|span| RegBuf::copy_of(span))
    }

    // ---- misfortune ----------------------------------------------------------------------------------------

    pub(super) fn fault(&mut self, fault: &Fault) {
        self.note([16, 0, 0, 3]);
        let known_ns = self.now() + self.config.dead_after_ns;
        match fault {
            Fault::Kill(pe) => {
                self.bury(*pe, Health::Dead);
                self.schedule(known_ns, What::DeathKnown(*pe));
            }
            Fault::Pause(pe) => {
                if self.nodes[pe.index()].health == Health::Alive {
                    self.next_epoch += 1;
                    self.nodes[pe.index()].health = Health::Paused(self.next_epoch);
                    self.schedule(known_ns, What::PauseKnown { pe: *pe, epoch: self.next_epoch });
                }
            }
            Fault::Resume(pe) => {
                if let Health::Paused(_) = self.nodes[pe.index()].health {
                    self.nodes[pe.index()].health = Health::Alive;
                    self.wake(*pe);
                    self.unpark();
                }
            }
            Fault::Cut(side) => {
                self.next_epoch += 1;
                self.cuts.push(Cut { number: self.next_epoch, side: side.iter().copied().collect() });
                self.schedule(known_ns, What::CutKnown { cut: self.next_epoch });
            }
            Fault::Heal => {
                self.cuts.clear();
                self.unpark();
            }
        }
    }

    /// Releases delayed packets.
    fn unpark(&mut self) {
        for packet in std::mem::take(&mut self.parked) {
            self.arrive(packet);
        }
        let connected: Vec<_> =
            self.links.iter().filter(|(_, link)| link.connection.is_some()).map(|(pair, _)| *pair).collect();
        for (from, to) in connected {
            self.pump(from, to);
        }
    }

    /// Removes the state of a PE that does nothing any more.
    pub(super) fn bury(&mut self, pe: Pe, health: Health) {
        let node = &mut self.nodes[pe.index()];
        if matches!(node.health, Health::Dead | Health::Closed) {
            return;
        }
        node.health = health;
        node.windows.clear();
        let unread = std::mem::take(&mut node.inbox);
        for event in unread {
            if let Event::Recv { from, msg, .. } = event {
                self.credit(from, pe, msg.len());
            }
        }
        if health == Health::Dead {
            for (_, link) in self.links.range_mut((pe, Pe(0))..=(pe, Pe(u32::MAX))) {
                link.pending.clear();
                link.connection = None;
            }
        }
    }

    fn lose_by_all(&mut self, pe: Pe, why: &'static str) {
        for other in (0..self.config.layout.pes()).map(Pe).filter(|other| *other != pe) {
            self.lose(other, pe, why);
            self.lose(pe, other, why);
        }
    }

    fn cut_known(&mut self, number: u64) {
        let Some(cut) = self.cuts.iter().find(|cut| cut.number == number) else { return };
        let side = cut.side.clone();
        let others: Vec<Pe> = (0..self.config.layout.pes()).map(Pe).filter(|pe| !side.contains(pe)).collect();
        for &a in &side {
            for &b in &others {
                self.lose(a, b, "cut off");
                self.lose(b, a, "cut off");
            }
        }
    }

    /// `pe` has lost `other`.
    fn lose(&mut self, pe: Pe, other: Pe, why: &'static str) {
        let gone = |health| matches!(health, Health::Dead | Health::Closed);
        if gone(self.nodes[pe.index()].health) || self.nodes[other.index()].health == Health::Closed {
            return;
        }
        let link = self.link(pe, other);
        if std::mem::replace(&mut link.lost, true) {
            return;
        }
        link.connection = None;
        for event in link.fail(other, why) {
            self.report(pe, event);
        }
        self.report(pe, Event::PeerLost { pe: other, why });
    }

    // ---- questions -----------------------------------------------------------------------------------------

    /// Whether nothing is in flight, pending, or waiting to be taken.
    pub(super) fn quiet(&self) -> bool {
        let settled = |link: &Link| {
            let said = link.connection.as_ref().is_none_or(|connection| connection.idle());
            link.lost || (link.packets == 0 && link.pending.is_empty() && said)
        };
        self.links.values().all(settled) && self.nodes.iter().all(|node| node.inbox.is_empty())
    }
}

fn refused(op: charm4rs_transport_core::OpId, buf: Option<RegBuf>, peer: Pe) -> Event {
    let error = TransportError::Protocol { from: peer, what: "the window does not exist, or is shorter", detail: op.0 };
    Event::Failed { op, buf, error: Box::new(error) }
}
