//! The entry point of the fuzzer: the inbox in shared memory, and everything beside it, as a faulty process of the host might write them that has
//! the memory mapped.
//!
//! A port accepts any contents as messages, or refuses them as a violation of the protocol. It never panics, and accesses no memory
//! outside the segments. (What the other process does to the bytes of the arenas, which it has mapped too, does not concern the port.)

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::builder::{Fabrics, PortBuilder};
use super::fuzz::{asks_for_much, takes};
use super::{Port, Tag};
use crate::options::TransportOptions;
use crate::shm::ShmFabric;
use charm4rs_transport_core::fast_path::FastPath as _;
use charm4rs_transport_core::memory::inbox::Outbox;
use charm4rs_transport_core::memory::segment::{Segment, WINDOWS};
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_core::ring::BODY_MAX;
use charm4rs_transport_core::{Imm, Layout, Pe, RegBuf};
use charm4rs_transport_testkit::fuzz::Input;

/// The most steps of an input.
const STEPS: usize = 64;
/// A window in a process's own memory, in an arena or not: a process that may name its own memory has no need of ours.
const FOREIGN: u64 = u64::MAX;

/// Steps of PE 0, which is faulty, and of PE 1, whose port must survive them. Each begins with a byte that selects the step.
///
/// # Panics
/// If the port does.
pub fn records(input: &[u8]) {
    let fabric = ShmFabric::alone_with(2, 1 << 16, 64 << 20).expect("memory");
    let layout = Arc::new(Layout::one_host(2, 1));
    let options = TransportOptions { may_block: false, ..TransportOptions::default() };
    let fabrics = Fabrics { shm: Some(fabric.clone()), ..Fabrics::default() };
    let mut port =
        PortBuilder::new(Pe(1), &layout, &fabrics, &options).and_then(PortBuilder::open).expect("descriptors");
    let mut peer = fabric.endpoint(Pe(0));
    let [mine, theirs] = [Pe(0), Pe(1)].map(|pe| fabric.segment(pe).clone());
    let mut outbox = Outbox::new(theirs.clone());
    let (mut input, mut events, mut kept) = (Input(input), VecDeque::new(), Vec::new());
    for _ in 0..STEPS {
        if step(&mut input, &mut port, &mut outbox, [&mine, &theirs], &mut kept).is_none()
            || !takes(&mut port, &mut events)
        {
            break;
        }
        let _ = peer.receive(usize::MAX, drop);
    }
}

fn step(
    input: &mut Input<'_>,
    port: &mut Port,
    outbox: &mut Outbox,
    [mine, theirs]: [&Segment; 2],
    kept: &mut Vec<RegBuf>,
) -> Option<()> {
    match input.u8()? % 8 {
        // A record: its kind; its sender; its immediate; its body.
        kind @ 0..=2 => record(outbox, kind.into(), input.u8()?, Imm(input.u32()?), input.run()?),
        3 => record(outbox, input.u8()?.into(), input.u8()?, Imm(input.u32()?), input.run()?),
        // A record of a buffer: whose arena, which page, how many bytes, of how many.
        4 => {
            let (from, imm) = (input.u8()?, Imm(input.u32()?));
            let [whose, page] = [u64::from(input.u8()?), u64::from(input.u16()?)];
            let words = [whose, page << 12, input.u32()?.into(), input.u32()?.into()];
            record(outbox, 3, from, imm, words.map(u64::to_le_bytes).as_flattened());
        }
        // A word of the headers.
        5 => forge(input, mine, theirs)?,
        // The port's own work.
        6 => {
            let (len, payload) = (input.u16()?.into(), input.u32()? & 0x1ffff);
            let payloads = (payload > 0).then(|| port.alloc(payload as usize)).into_iter().collect();
            port.send_payloads(Pe(0), Tag(1), len, |to| write_bytes(to, &vec![7; len]), payloads, len % 2 == 0);
        }
        _ => match input.u32()? & 0xfffff {
            0 => kept.clear(),
            len => kept.push(port.alloc(len as usize)),
        },
    }
    Some(())
}

/// Writes a record with this commit word, in which all bits except for the lap may be wrong. The length is that of the body if `kind` has a clear top bit.
fn record(outbox: &mut Outbox, kind: u64, from: u8, imm: Imm, body: &[u8]) {
    if asks_for_much(imm, body) {
        return;
    }
    let from = if from < 4 { u32::from(from) } else { u32::from(from) << 24 };
    let len = if kind & 0x80 == 0 { body.len() as u64 } else { u64::from(imm.0 >> 8) };
    let kind = match kind & 0x7f {
        0 => 2,
        kind => kind,
    };
    if let Some(mut claim) = outbox.claim(body.len().min(BODY_MAX)) {
        write_bytes(claim.body(), body);
        claim.publish_forged(from, (kind << 56 | len << 32 | u64::from(imm.0)) << 1);
    }
}

fn forge(input: &mut Input<'_>, mine: &Segment, theirs: &Segment) -> Option<()> {
    let (which, at, word) = (input.u8()?, input.u16()?, input.u64()?);
    let window = &mine.header().windows[usize::from(at) % WINDOWS];
    match which % 8 {
        0 => theirs.header().returned.0.store(word, Relaxed),
        1 => theirs.header().sleep.0.store(word, Relaxed),
        2 => mine.header().sleep.0.store(word, Relaxed),
        3 => mine.header().closed.store(at.into(), Relaxed),
        4 => window.state.store(word, Relaxed),
        5 => window.place.store(if word == FOREIGN { 0 } else { word }, Relaxed),
        6 => window.addr.store(word, Relaxed),
        _ => window.len.store(word, Relaxed),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;
    use charm4rs_transport_core::seed::{self, Rng};

    #[test]
    fn the_corpus_of_records_causes_no_panic() {
        charm4rs_transport_testkit::fuzz::replay("records", records);
    }

    fn step(rng: &mut Rng) -> Vec<u8> {
        let byte = |rng: &mut Rng| u8::try_from(rng.below(256)).unwrap();
        let tag = if rng.below(3) == 0 { rng.below(5) } else { 0xF0 + rng.below(13) };
        let imm = u32::try_from(tag | [0, 0, 1, 2, 0xff_ffff][rng.below(5)] << 8).unwrap().to_le_bytes();
        let from = [0, 0, 0, 0, 1, 2, 9][rng.below(7)];
        let body: Vec<u8> = (0..rng.below(60)).map(|_| [0, 1, 2, byte(rng)][rng.below(4)]).collect();
        let run = [&[u8::try_from(body.len()).unwrap()], &body[..]].concat();
        match rng.below(9) {
            0..3 => [&[0, from][..], &imm, &run].concat(),
            3 => [&[3, byte(rng), from][..], &imm, &run].concat(),
            4 => {
                let len = u32::try_from(rng.below(9_000)).unwrap().to_le_bytes();
                let page = u16::try_from(rng.below(4) * 8).unwrap().to_le_bytes();
                [&[4, from][..], &imm, &[u8::try_from(rng.below(3)).unwrap()], &page, &len, &(1u32 << 14).to_le_bytes()]
                    .concat()
            }
            5 => {
                let word = [0, 1, 0xffff, rng.next_u64(), rng.below(64 << 20) as u64][rng.below(5)];
                [&[5, byte(rng)][..], &[byte(rng) % 3, 0], &word.to_le_bytes()].concat()
            }
            6 | 7 => {
                let len = u16::try_from(rng.below(2_000)).unwrap().to_le_bytes();
                [&[6][..], &len, &u32::try_from(rng.below(80_000)).unwrap().to_le_bytes()].concat()
            }
            _ => [&[7][..], &u32::try_from(rng.below(3) * 9_000).unwrap().to_le_bytes()].concat(),
        }
    }

    #[test]
    fn records_of_every_kind_with_any_contents_cause_no_panic() {
        assert_eq!(frame::FIRST, 0xF0);
        let seeds = seed::from_environment().map_or(0..500, |seed| seed..seed + 1);
        for seed in seeds {
            let mut rng = Rng::stream(seed, 0);
            let input: Vec<u8> = (0..1 + rng.below(12)).flat_map(|_| step(&mut rng)).collect();
            println!("CHARM4RS_SEED={seed}");
            records(&input);
        }
    }
}
