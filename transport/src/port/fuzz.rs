//! The entry point of the fuzzer: frames of a faulty peer that has proven itself.
//!
//! A port accepts any bytes as messages, or refuses them as a violation of the protocol; it never panics. A unit test runs the same
//! function over the committed corpus.

use std::collections::VecDeque;

use super::frame::{self, Rts};
use super::{Port, PortEvent, Tag};
use crate::options::TransportOptions;
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_core::{Doorbell, Imm, Layout, Pe, RegBuf, TransportError};
use charm4rs_transport_testkit::fuzz::Input;
use charm4rs_transport_testkit::sim::{Config, Network};

/// A larger request is legal, but takes more memory than a fuzzer has.
const PAYLOADS_MAX: u64 = 1 << 20;

/// Frames of PE 0 for a port that has sent it a message with payloads, and whose user accepts every other offer.
/// Each frame: four bytes, the immediate; the length of its body; the body. Over a network that hands buffers over, and over one that does not.
///
/// # Panics
/// If the port does.
pub fn frames(input: &[u8]) {
    frames_over(input, false);
    frames_over(input, true);
}

thread_local! {
    static DOORBELL: Doorbell = Doorbell::new().expect("a descriptor");
}

fn frames_over(input: &[u8], handover: bool) {
    let network = Network::new(Config { handover, ..Config::reliable(Layout::one_host(2, 1), 1) });
    let mut peer = network.endpoint(Pe(0));
    let end = network.endpoint(Pe(1));
    let mut port = DOORBELL.with(|bell| Port::over(end, network.layout().clone(), TransportOptions::default(), bell));
    let payloads = vec![RegBuf::heap(2_000), RegBuf::heap(10)];
    port.send_payloads(Pe(0), Tag(1), 3, |to| write_bytes(to, b"abc"), payloads, true);
    let (mut events, mut theirs, mut input) = (VecDeque::new(), Vec::new(), Input(input));
    while let (Some(imm), Some(body)) = (input.u32(), input.run()) {
        if asks_for_much(Imm(imm), body) {
            continue;
        }
        if peer.inject(Pe(1), Imm(imm), body.len(), &mut |to| write_bytes(to, body)).is_err() {
            return;
        }
        while let Some(at_ns) = network.next_ns() {
            network.advance_to(at_ns);
        }
        if !takes(&mut port, &mut events) {
            return;
        }
        let _ = peer.progress(&mut theirs, 64);
        theirs.clear();
    }
}

/// A request for more memory than a fuzzer has.
pub(super) fn asks_for_much(imm: Imm, body: &[u8]) -> bool {
    let asks = |rts: Rts<'_>| rts.sizes.iter().sum::<u64>() > PAYLOADS_MAX;
    frame::tag(imm) == frame::RTS && Rts::decode(body).is_some_and(asks)
}

/// The port handles its arrivals, and its user accepts every other offer. Returns whether it continues: if not, its peer broke the protocol, or
/// announced its end.
pub(super) fn takes(port: &mut Port, events: &mut VecDeque<PortEvent>) -> bool {
    match port.poll(events, 64) {
        Ok(_) => {}
        Err(TransportError::Protocol { .. } | TransportError::PeerDown { .. }) => return false,
        Err(other) => panic!("{other}"),
    }
    for (at, event) in events.drain(..).enumerate() {
        if let PortEvent::Message(message) = &event {
            port.took(message);
        }
        if let PortEvent::Offer(offer) = event {
            let len = offer.sizes.first().copied().unwrap_or_default();
            let destination = (at % 2 == 0).then(|| RegBuf::heap(usize::try_from(len).expect("it is bounded above")));
            port.accept(offer.id, vec![destination]);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Cts, Destination};
    use super::*;
    use charm4rs_transport_core::RemoteKey;
    use charm4rs_transport_core::seed::{self, Rng};

    #[test]
    fn the_corpus_of_frames_causes_no_panic() {
        charm4rs_transport_testkit::fuzz::replay("frames", frames);
    }

    fn body(tag: u8, rng: &mut Rng) -> Vec<u8> {
        let bytes: Vec<u8> = (0..rng.below(40)).map(|_| u8::try_from(rng.below(4)).unwrap()).collect();
        let size = |rng: &mut Rng| if rng.below(9) == 0 { u64::MAX } else { rng.range(0..3_000) };
        match tag {
            _ if rng.below(5) == 0 => bytes,
            frame::RTS => {
                let sizes = (0..rng.below(4)).map(|_| size(rng)).collect();
                let (offer, head_follows) = (rng.below(2) == 0, rng.below(3) == 0);
                let tag = u8::try_from(rng.below(9)).unwrap();
                Rts { id: rng.range(0..3), tag, offer, head_follows, sizes, head: &bytes }.encode()
            }
            frame::CTS => {
                let destination = |rng: &mut Rng| match rng.below(3) {
                    0 => Destination::Hand,
                    1 => Destination::Put(RemoteKey { len: [2_000, 10][rng.below(2)], bytes: bytes.clone().into() }),
                    _ => Destination::Put(RemoteKey { len: size(rng), bytes: bytes.clone().into() }),
                };
                let destinations = (0..1 + rng.below(3)).map(|_| destination(rng)).collect();
                Cts { id: rng.range(0..2), slot: rng.next_u32() >> (8 + rng.below(24)), destinations }.encode()
            }
            frame::EAGER => {
                let payloads: Vec<_> = (0..1 + rng.below(3)).map(|_| RegBuf::heap(rng.below(9))).collect();
                let mut whole = RegBuf::heap(frame::Eager::len(bytes.len(), &payloads).unwrap());
                let tag = u8::try_from(rng.below(9)).unwrap();
                whole.fill_with(|to| frame::Eager::write(to, tag, &payloads, |to| write_bytes(to, &bytes)));
                whole.to_vec()
            }
            frame::CREDIT | frame::REFUSE => size(rng).to_le_bytes().to_vec(),
            _ => bytes,
        }
    }

    #[test]
    fn frames_of_every_kind_with_any_contents_cause_no_panic() {
        let seeds = seed::from_environment().map_or(0..3_000, |seed| seed..seed + 1);
        for seed in seeds {
            let mut rng = Rng::stream(seed, 0);
            let mut input = Vec::new();
            for _ in 0..1 + rng.below(8) {
                let tag = if rng.below(3) == 0 { rng.below(5) } else { 0xF0 + rng.below(14) };
                let tag = u8::try_from(tag).unwrap();
                let body = body(tag, &mut rng);
                input.extend(frame::imm(tag, [0, 0, 1, 2, frame::ARG_MAX][rng.below(5)]).0.to_le_bytes());
                input.push(u8::try_from(body.len().min(255)).unwrap());
                input.extend(&body[..body.len().min(255)]);
            }
            println!("CHARM4RS_SEED={seed}");
            frames(&input);
        }
    }
}
