//! A model of the protocol: both machines, under every order of events that a network may choose, with every answer that a receiver may give.
//!
//! PE 0 sends messages to PE 1. Frames of a pair arrive in order; puts complete in any order, also between frames. At each step the model picks one of the events
//! that are possible. The explorer runs the model once for each sequence of picks, so the tests are exhaustive for the messages that they name.

use std::collections::VecDeque;

use super::super::frame::{Nack, Write};
use super::super::puts::Target;
use super::*;
use charm4rs_transport_core::memory::Slab;
use charm4rs_transport_core::{RemoteKey, Window, WindowId};

const SENDER: Pe = Pe(0);
const RECEIVER: Pe = Pe(1);
/// A longer head travels as the first payload.
const HEAD_MAX: usize = 8;

/// Picks, in order, one of the possible events. A script repeats earlier picks.
#[derive(Default)]
struct Explorer {
    /// Each pick, and how many events were possible.
    script: Vec<(usize, usize)>,
    at: usize,
}

impl Explorer {
    fn pick(&mut self, of: usize) -> usize {
        assert!(of > 0);
        if self.at == self.script.len() {
            self.script.push((0, of));
        }
        let (picked, was_of) = self.script[self.at];
        assert_eq!(of, was_of, "the model has no other source of choice");
        self.at += 1;
        picked
    }

    /// Goes on to the next script. `false`: that was the last one.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((picked, of)) = self.script.pop() {
            if picked + 1 < of {
                self.script.push((picked + 1, of));
                return true;
            }
        }
        false
    }
}

/// Runs `model` with every script, and returns their number.
fn explore(mut model: impl FnMut(&mut Explorer)) -> u32 {
    let mut explorer = Explorer::default();
    let mut runs = 0;
    loop {
        model(&mut explorer);
        runs += 1;
        if !explorer.advance() {
            return runs;
        }
    }
}

/// A message to send: its head, its payloads, and whether the receiver's user chooses destinations.
#[derive(Clone)]
struct Sent {
    head: Vec<u8>,
    payloads: Vec<Vec<u8>>,
    offer: bool,
}

fn sent(head: &[u8], payloads: &[&[u8]], offer: bool) -> Sent {
    Sent { head: head.to_vec(), payloads: payloads.iter().map(|payload| payload.to_vec()).collect(), offer }
}

/// What is between the PEs.
enum Frame {
    Control(u8, Vec<u8>),
    Handed(usize, Vec<u8>),
    Missed(usize),
}

/// A put that is not complete.
struct Flying {
    slot: usize,
    part: usize,
    key: RemoteKey,
    bytes: Vec<u8>,
}

#[derive(PartialEq, Eq, Debug)]
enum Outcome {
    Delivered(Vec<u8>, Vec<Vec<u8>>),
    Refused(Vec<u8>),
    Nacked(Vec<u8>),
}

#[derive(Default)]
struct Model {
    sender: Sender,
    receiver: Receiver,
    /// What frames asked each of them for.
    sender_todo: VecDeque<Action>,
    receiver_todo: VecDeque<Action>,
    slab: Slab,
    to_receiver: VecDeque<Frame>,
    to_sender: VecDeque<Frame>,
    puts: Vec<Flying>,
    /// Offers that the receiver's user has not answered.
    shown: Vec<u64>,
    reserved: u64,
    windows: u64,
    outcomes: Vec<Outcome>,
}

impl Model {
    fn send(&mut self, Sent { head, payloads, offer }: Sent) {
        let payloads = payloads.into_iter().map(RegBuf::from_vec).collect();
        let head = RegBuf::from_vec(head);
        let request = Request { to: RECEIVER, tag: Tag(1), head, payloads, offer, head_max: HEAD_MAX };
        let (rts, reserved) = self.sender.ask(request);
        self.reserved += reserved;
        self.to_receiver.push_back(Frame::Control(frame::RTS, rts));
    }

    /// Lets one of the possible events happen. `false`: none is possible.
    fn step(&mut self, explorer: &mut Explorer) -> bool {
        let possible = [
            self.to_receiver.len().min(1),
            self.to_sender.len().min(1),
            self.puts.len(),
            self.sender_todo.len().min(1),
            self.receiver_todo.len().min(1),
            self.shown.len(),
        ];
        let all = possible.iter().sum();
        if all == 0 {
            return false;
        }
        let mut picked = explorer.pick(all);
        let mut kind = 0;
        while picked >= possible[kind] {
            picked -= possible[kind];
            kind += 1;
        }
        match kind {
            0 => self.receive_at_receiver(),
            1 => self.receive_at_sender(),
            2 => self.complete_put(picked),
            3 => self.act_at_sender(explorer),
            4 => self.act_at_receiver(explorer),
            _ => {
                let id = self.shown.remove(picked);
                self.answer(id, explorer);
            }
        }
        true
    }

    fn receive_at_receiver(&mut self) {
        let complete = match self.to_receiver.pop_front() {
            Some(Frame::Control(frame::RTS, body)) => {
                let rts = Rts::decode(&body).unwrap();
                match self.receiver.on_rts(SENDER, rts, &self.slab) {
                    (id, true) => self.shown.push(id),
                    (id, false) => self.receiver_todo.push_back(Action::Answer(id)),
                }
                Ok(None)
            }
            Some(Frame::Handed(slot, bytes)) => self.receiver.on_handed(SENDER, slot, RegBuf::from_vec(bytes), &mut 0),
            Some(Frame::Missed(slot)) => self.receiver.on_missed(SENDER, slot),
            Some(Frame::Control(..)) | None => unreachable!("no other frame is for the receiver"),
        };
        self.receiver_todo.extend(complete.unwrap().map(Action::Deliver));
    }

    fn receive_at_sender(&mut self) {
        let Some(Frame::Control(tag, body)) = self.to_sender.pop_front() else { unreachable!("payloads go one way") };
        match tag {
            frame::CTS => {
                let cleared = self.sender.on_cts(RECEIVER, &body).unwrap();
                self.sender_todo.push_back(Action::Transfer(cleared));
            }
            frame::REFUSE => {
                let refused = self.sender.on_refuse(RECEIVER, &body).unwrap();
                self.sender_todo.push_back(Action::Refund(refused));
            }
            frame::NACK => self.outcomes.push(Outcome::Nacked(Nack::decode(&body).unwrap().head.to_vec())),
            tag => unreachable!("{tag} is not for the sender"),
        }
    }

    /// The last piece of a put is complete: its bytes are there, and its FIN is.
    fn complete_put(&mut self, at: usize) {
        let Flying { slot, part, key, bytes } = self.puts.remove(at);
        let target = Target::payload(slot, part);
        let Target::Payload { slot: slot_name, part } = target else { unreachable!("it is a payload") };
        let write = Write { target, key, offset: 0, bytes: &bytes };
        assert!(self.receiver.write(SENDER, (slot_name, part), &write), "the window is open until its FIN");
        let complete = self.receiver.on_fin(SENDER, slot).unwrap();
        self.receiver_todo.extend(complete.map(Action::Deliver));
    }

    fn act_at_sender(&mut self, explorer: &mut Explorer) {
        match self.sender_todo.pop_front() {
            Some(Action::Transfer(Cleared { slot, transfers, reserved, .. })) => {
                self.reserved -= reserved;
                for (part, (payload, destination)) in transfers.into_iter().enumerate() {
                    let bytes = payload.to_vec();
                    match destination {
                        Destination::Put(key) => self.puts.push(Flying { slot, part, key, bytes }),
                        Destination::Hand if explorer.pick(2) == 0 => {
                            self.to_receiver.push_back(Frame::Handed(slot, bytes));
                        }
                        Destination::Hand => self.to_receiver.push_back(Frame::Missed(slot)),
                    }
                }
            }
            Some(Action::Refund(Refused { head, reserved, .. })) => {
                self.reserved -= reserved;
                self.outcomes.push(Outcome::Refused(head.into()));
            }
            other => unreachable!("{other:?} is not for the sender"),
        }
    }

    fn act_at_receiver(&mut self, explorer: &mut Explorer) {
        match self.receiver_todo.pop_front() {
            Some(Action::Answer(id)) => self.answer(id, explorer),
            Some(Action::Deliver(Arriving { head, parts, missed, .. })) => {
                let bytes = |part: Part| match part {
                    Part::Window(window) => window.into_buf().to_vec(),
                    Part::Here(payload) => payload.to_vec(),
                    Part::Hand(_) => unreachable!("all payloads have ended"),
                };
                let mut payloads: Vec<Vec<u8>> = parts.into_iter().map(bytes).collect();
                if missed {
                    let first = head.as_deref().map_or_else(|| payloads[0].clone(), <[u8]>::to_vec);
                    let nack = Nack { tag: 1, len: 0, head: &first }.encode();
                    return self.to_sender.push_back(Frame::Control(frame::NACK, nack));
                }
                let head = head.map_or_else(|| payloads.remove(0), |head| head.to_vec());
                self.outcomes.push(Outcome::Delivered(head, payloads));
            }
            other => unreachable!("{other:?} is not for the receiver"),
        }
    }

    /// Each payload is put, comes as a message, or finds no memory.
    fn answer(&mut self, id: u64, explorer: &mut Explorer) {
        let Offered { from, tag, head, sizes, head_follows, source } = self.receiver.take_offer(id).unwrap();
        let Source::Peer(theirs) = source else { unreachable!("it came from a peer") };
        let (mut parts, mut destinations) = (Vec::new(), Vec::new());
        for size in sizes {
            match explorer.pick(3) {
                0 => {
                    self.windows += 1;
                    let key = RemoteKey { len: size, bytes: self.windows.to_le_bytes().into() };
                    destinations.push(Destination::Put(key.clone()));
                    let buf = RegBuf::heap(usize::try_from(size).unwrap());
                    parts.push(Part::Window(Window::new(WindowId(self.windows), key, buf)));
                }
                1 => {
                    destinations.push(Destination::Hand);
                    parts.push(Part::Hand(None));
                }
                _ => {
                    let refuse = Frame::Control(frame::REFUSE, theirs.to_le_bytes().to_vec());
                    return self.to_sender.push_back(refuse);
                }
            }
        }
        let head = (!head_follows).then_some(head);
        let slot = self.receiver.expect((from, tag), head, 0, parts).unwrap();
        let cts = Cts { id: theirs, slot, destinations }.encode();
        self.to_sender.push_back(Frame::Control(frame::CTS, cts));
    }

    fn is_empty(&self) -> bool {
        self.sender.count() == 0 && self.receiver.counts() == [0, 0] && self.reserved == 0
    }
}

/// Whether the outcome is one that the message may have.
fn is_outcome_of(outcome: &Outcome, sent: &Sent) -> bool {
    match outcome {
        Outcome::Delivered(head, payloads) => (head, payloads) == (&sent.head, &sent.payloads),
        Outcome::Refused(head) => *head == sent.head,
        // A head that travels as a payload may be lost.
        Outcome::Nacked(head) => *head == sent.head || head.is_empty() && sent.head.len() > HEAD_MAX,
    }
}

/// Every message ends exactly once, intact or reported, and both tables are empty then.
fn check(messages: &[Sent]) -> u32 {
    let mut delivered = 0;
    let runs = explore(|explorer| {
        let mut model = Model::default();
        messages.iter().for_each(|message| model.send(message.clone()));
        while model.step(explorer) {}
        assert!(model.is_empty(), "{:?}", explorer.script);
        assert_eq!(model.outcomes.len(), messages.len(), "{:?}", explorer.script);
        for message in messages {
            let mine = |outcome: &&Outcome| is_outcome_of(outcome, message);
            assert!(model.outcomes.iter().any(|outcome| mine(&outcome)), "{:?} {:?}", model.outcomes, explorer.script);
        }
        delivered += u32::from(model.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Delivered(..))));
    });
    assert!(delivered > 0);
    runs
}

#[test]
fn every_message_ends_once_in_any_order_of_events() {
    let one = check(&[sent(b"head", &[b"payload", b""], false)]);
    let offered = check(&[sent(b"head", &[b"abc", b"payload"], true)]);
    let long = check(&[sent(b"a long head", &[b"payload"], true)]);
    let two = check(&[sent(b"one", &[b"payload"], false), sent(b"two", &[b"load"], true)]);
    assert!(one.min(offered).min(long).min(two) > 10, "{one} {offered} {long} {two}");
}

#[test]
fn frames_of_other_peers_and_repeated_frames_are_violations_and_change_nothing() {
    let mut model = Model::default();
    let mut first = Explorer::default();
    model.send(sent(b"head", &[b"put", b"hand"], true));
    model.receive_at_receiver();
    let id = model.shown.remove(0);
    // The first payload is put, the second one comes as a message.
    first.script = vec![(0, 3), (1, 3)];
    model.answer(id, &mut first);
    let Some(Frame::Control(_, cts)) = model.to_sender.pop_front() else { unreachable!("a CTS") };
    let refuse = 0u64.to_le_bytes();
    assert!(model.sender.on_cts(Pe(7), &cts).is_err() && model.sender.on_refuse(Pe(7), &refuse).is_err());
    model.sender.on_cts(RECEIVER, &cts).unwrap();
    assert!(model.sender.on_cts(RECEIVER, &cts).is_err() && model.sender.on_refuse(RECEIVER, &refuse).is_err());

    let receiver = &mut model.receiver;
    let hand = |receiver: &mut Receiver, from| receiver.on_handed(from, 0, RegBuf::copy_of(b"hand"), &mut 0);
    assert!(
        receiver.on_fin(Pe(7), 0).is_err() && receiver.on_fin(SENDER, 1).is_err() && hand(receiver, Pe(7)).is_err()
    );
    assert!(receiver.on_fin(SENDER, 0).unwrap().is_none(), "one payload is missing");
    assert!(receiver.on_fin(SENDER, 0).is_err(), "one payload was to be put");
    assert!(hand(receiver, SENDER).unwrap().is_some(), "that was the last one");
    assert!(hand(receiver, SENDER).is_err() && receiver.on_missed(SENDER, 0).is_err(), "the slot is free");
    assert_eq!(receiver.counts(), [0, 0]);
}

#[test]
fn a_cts_whose_lengths_do_not_fit_is_refused() {
    let mut sender = Sender::default();
    let payloads = vec![RegBuf::heap(10)];
    let head = RegBuf::heap(1);
    sender.ask(Request { to: RECEIVER, tag: Tag(1), head, payloads, offer: false, head_max: HEAD_MAX });
    let key = RemoteKey { len: 11, bytes: Box::default() };
    let cts = Cts { id: 0, slot: 0, destinations: vec![Destination::Put(key)] }.encode();
    assert!(sender.on_cts(RECEIVER, &cts).is_err());
}
