//! Laws of quantity: many PEs, many messages, large ones.

use super::messages::Stream;
use super::{Bench, Peer};
use charm4rs_transport_core::{Imm, Pe};

/// Several PEs send messages to one.
pub fn many_send_to_one(bench: &Bench<'_>) {
    const COUNT: u32 = 400;
    bench.run(5, async |peer: &Peer| {
        if peer.pe == Pe(0) {
            let mut stream = Stream::new(peer);
            for _ in 0..COUNT * (peer.pes - 1) {
                let (from, imm, msg) = peer.recv().await;
                stream.take(from, imm);
                peer.expect(from, imm, &msg);
            }
            assert!(peer.others().all(|pe| stream.count(pe) == COUNT as usize));
        } else {
            for number in 0..COUNT {
                let len = peer.rng(|rng| rng.below(6_000));
                let _ = peer.send(Pe(0), Imm(number), peer.loaded(Pe(0), Imm(number), len)).await;
            }
            peer.flush().await;
        }
    });
}

/// All PEs send to all, and receive meanwhile.
pub fn all_send_to_all(bench: &Bench<'_>) {
    const COUNT: u32 = 150;
    bench.run(6, async |peer: &Peer| {
        let mut stream = Stream::new(peer);
        let mut take = |peer: &Peer| {
            while let Some((from, imm, msg)) = peer.try_recv() {
                stream.take(from, imm);
                peer.expect(from, imm, &msg);
            }
            peer.others().map(|pe| stream.count(pe)).sum::<usize>()
        };
        for number in 0..COUNT {
            for to in peer.others() {
                let len = peer.rng(|rng| if rng.chance(0.05) { rng.below(100_000) } else { rng.below(300) });
                let len = len.min(peer.caps().send_max);
                let _ = peer.send(to, Imm(number), peer.loaded(to, Imm(number), len)).await;
            }
            take(peer);
        }
        let all = COUNT as usize * (peer.pes as usize - 1);
        peer.until(|| (take(peer) == all).then_some(())).await;
        peer.flush().await;
    });
}

/// Small messages in both directions at full speed.
pub fn a_storm_of_small_messages_arrives_completely(bench: &Bench<'_>) {
    const COUNT: u32 = 50_000;
    bench.run(2, async |peer: &Peer| {
        let to = Pe(1 - peer.pe.0);
        let mut stream = Stream::new(peer);
        let mut received = 0;
        let mut take = |peer: &Peer| {
            while let Some((from, imm, msg)) = peer.try_recv() {
                stream.take(from, imm);
                assert_eq!(msg.len(), imm.0 as usize % 33);
                peer.expect(from, imm, &msg);
                received += 1;
            }
            received
        };
        for number in 0..COUNT {
            peer.inject(to, Imm(number), number as usize % 33).await;
            take(peer);
        }
        peer.until(|| (take(peer) == COUNT).then_some(())).await;
    });
}

const HUGE: usize = (80 << 20) + 13;

/// Larger than any ring, pool or socket buffer.
pub fn a_message_of_80_mib_arrives(bench: &Bench<'_>) {
    a_message_of(bench, HUGE);
}

fn a_message_of(bench: &Bench<'_>, len: usize) {
    bench.run(2, async |peer: &Peer| {
        if len > peer.caps().send_max {
            return;
        }
        if peer.pe == Pe(0) {
            let mut buf = peer.heap(len);
            super::bytes::pour(peer.key(Pe(1), Imm(9)), &mut buf);
            let op = peer.send(Pe(1), Imm(9), buf).await;
            peer.inject(Pe(1), Imm(10), 1).await;
            let _ = peer.done(op).await;
        } else {
            for _ in 0..2 {
                let (from, imm, msg) = peer.recv().await;
                assert_eq!(msg.len(), if imm == Imm(9) { len } else { 1 });
                peer.expect(from, imm, &msg);
            }
        }
    });
}

/// As a put, in one operation if the backend can, otherwise in as many as it needs.
pub fn a_put_of_80_mib_arrives(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(1) {
            let window = peer.expose(peer.heap(HUGE));
            peer.post_key("window", 0, &window.key);
            assert_eq!(peer.announced().await, (Pe(0), Imm(77)));
            let buf = peer.unexpose(window);
            super::bytes::expect(peer.seed, &buf, "the window");
        } else {
            let key = peer.read_key("window", 0).await;
            let mut whole = vec![0; HUGE];
            super::bytes::pour(peer.seed, &mut whole);
            let chunk = peer.caps().put_max.min(HUGE);
            for (number, part) in whole.chunks(chunk).enumerate() {
                let mut src = peer.heap(part.len());
                src.copy_from_slice(part);
                let last = (number + 1) * chunk >= HUGE;
                let _ = peer.put(Pe(1), src, &key, (number * chunk) as u64, last.then_some(Imm(77))).await;
            }
            peer.flush().await;
        }
    });
}

/// Lengths that do not fit 32 bits. The law needs 10 GiB of free memory and a minute, so it runs only on request.
pub fn a_message_beyond_4_gib_arrives(bench: &Bench<'_>) {
    if std::env::var_os("CHARM4RS_TEST_4GIB").is_none() {
        eprintln!("skipped: it needs 10 GiB of free memory; set CHARM4RS_TEST_4GIB=1 to run it");
        return;
    }
    a_message_of(bench, (4 << 30) + 4_099);
}
