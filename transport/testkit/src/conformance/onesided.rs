//! Laws of puts and gets: bytes are visible when they are announced, and nothing outside a window is ever touched.

use super::remap::Spot;
use super::{Bench, Outcome, Peer, bytes};
use charm4rs_transport_core::memory::RegBuf;
use charm4rs_transport_core::{Imm, Pe, PostError, RemoteKey};

const LEN: usize = 300_000;

/// The window's bytes before any put.
const UNTOUCHED: u8 = 0x5a;

fn untouched(mut buf: RegBuf) -> RegBuf {
    buf.fill(UNTOUCHED);
    buf
}

/// Fails unless `buf` holds `key`'s contents in the range, and is untouched elsewhere.
fn expect_only(buf: &[u8], at: usize, len: usize, key: u64) {
    bytes::expect(key, &buf[at..at + len], format_args!("{len} bytes put at {at}"));
    let stray = buf[..at].iter().chain(&buf[at + len..]).position(|&byte| byte != UNTOUCHED);
    assert_eq!(stray, None, "bytes outside the put of {len} bytes at {at} are untouched");
}

fn source(peer: &Peer, len: usize, key: u64, kind: u32) -> RegBuf {
    let mut buf = match kind % 3 {
        0 => peer.pooled(len),
        1 => peer.heap(len),
        _ => peer.vec(vec![0u8; len]),
    };
    bytes::pour(key, &mut buf);
    buf
}

/// Many lengths at many offsets, each into a fresh window.
pub fn a_put_is_visible_when_it_is_announced(bench: &Bench<'_>) {
    let cases = [(1, 0), (8, 8), (64, 1), (4_096, 4_096), (70_001, 3), (LEN, 0), (LEN - 1, 1), (5, LEN - 5), (999, 17)];
    bench.run(2, async |peer: &Peer| {
        for ((len, at), round) in cases.into_iter().cycle().zip(0u32..60) {
            let key = peer.seed ^ u64::from(round);
            if peer.pe == Pe(1) {
                let window = peer.expose(untouched(peer.heap(LEN)));
                assert_eq!(window.key.len, LEN as u64, "a key has the window's length");
                peer.post_key("window", round, &window.key);
                assert_eq!(peer.announced().await, (Pe(0), Imm(!round)), "the origin, and the immediate");
                expect_only(&peer.unexpose(window), at, len.min(peer.caps().put_max), key);
            } else {
                let window = peer.read_key("window", round).await;
                let src = source(peer, len.min(peer.caps().put_max), key, round);
                let op = peer.put(Pe(1), src, &window, at as u64, Some(Imm(!round))).await;
                let _ = peer.done(op).await;
            }
        }
    });
}

/// A payload may be put in pieces: the last announcement covers all of them.
pub fn puts_before_the_announced_one_are_visible_with_it(bench: &Bench<'_>) {
    const PIECES: usize = 100;
    const PIECE: usize = 3_000;
    bench.run(2, async |peer: &Peer| {
        for round in 0..20u32 {
            if peer.pe == Pe(1) {
                let window = peer.expose(untouched(peer.heap(PIECES * PIECE)));
                peer.post_key("window", round, &window.key);
                assert_eq!(peer.announced().await, (Pe(0), Imm(round)));
                let buf = peer.unexpose(window);
                for (piece, number) in buf.chunks(PIECE).zip(0..) {
                    bytes::expect(peer.seed + number, piece, format_args!("piece {number}"));
                }
            } else {
                let window = peer.read_key("window", round).await;
                let mut order: Vec<usize> = (0..PIECES).collect();
                peer.rng(|rng| rng.shuffle(&mut order));
                for (turn, &piece) in order.iter().enumerate() {
                    let src = source(peer, PIECE, peer.seed + piece as u64, round);
                    let imm = (turn == PIECES - 1).then_some(Imm(round));
                    let _ = peer.put(Pe(1), src, &window, (piece * PIECE) as u64, imm).await;
                }
                peer.flush().await;
            }
        }
    });
}

/// One key serves for many puts, of several origins in turn, until the last has arrived.
pub fn a_persistent_window_takes_repeated_puts(bench: &Bench<'_>) {
    const ROUNDS: u32 = 60;
    let (len, at) = (|round: u32| 1 + round as usize * 997 % 5_000, |round: u32| round as usize * 61);
    bench.run(3, async |peer: &Peer| {
        if peer.pe == Pe(0) {
            let window = peer.expose_for_long(untouched(peer.heap(10_000)));
            peer.post_key("window", 0, &window.key);
            for round in 0..ROUNDS {
                peer.post("turn", round, vec![]);
                assert_eq!(peer.announced().await, (Pe(1 + round % 2), Imm(round)));
            }
            let buf = peer.unexpose(window);
            bytes::expect(peer.seed, &buf[at(ROUNDS - 1)..][..len(ROUNDS - 1)], "the last put");
            assert_eq!(buf[9_999], UNTOUCHED);
        } else {
            let window = peer.read_key("window", 0).await;
            for round in (0..ROUNDS).filter(|round| Pe(1 + round % 2) == peer.pe) {
                peer.read("turn", round).await;
                let key = peer.seed + u64::from(ROUNDS - 1 - round);
                let src = source(peer, len(round), key, round);
                let op = peer.put(Pe(0), src, &window, at(round) as u64, Some(Imm(round))).await;
                let _ = peer.done(op).await;
            }
        }
    });
}

/// Short and long puts, one behind the other, some of them not announced.
pub fn puts_into_a_persistent_window_arrive_in_order_without_waiting(bench: &Bench<'_>) {
    const PUTS: u32 = 120;
    const LENS: [usize; 8] = [1, 100, 9_000, 0, 4_096, 4_097, 70_001, 3_000];
    let announced = |put: u32| put % 5 != 2;
    bench.run(2, async |peer: &Peer| {
        let len = |put: u32| LENS[put as usize % LENS.len()].min(peer.caps().put_max);
        let at = |put: u32| (0..put).map(len).sum::<usize>();
        if peer.pe == Pe(0) {
            let window = peer.expose_for_long(untouched(peer.heap(at(PUTS) + 1)));
            peer.post_key("window", 0, &window.key);
            for put in (0..PUTS).filter(|&put| announced(put)) {
                assert_eq!(peer.announced().await, (Pe(1), Imm(put)));
            }
            peer.read("done", 0).await;
            let buf = peer.unexpose(window);
            for put in 0..PUTS {
                bytes::expect(peer.seed + u64::from(put), &buf[at(put)..][..len(put)], format_args!("put {put}"));
            }
            assert_eq!(buf[at(PUTS)], UNTOUCHED);
        } else {
            let window = peer.read_key("window", 0).await;
            for put in 0..PUTS {
                let src = source(peer, len(put), peer.seed + u64::from(put), put);
                let _ = peer.put(Pe(0), src, &window, at(put) as u64, announced(put).then_some(Imm(put))).await;
            }
            peer.flush().await;
            peer.post("done", 0, vec![]);
        }
    });
}

/// Both ends unmap memory and map new memory at the same address. Puts, gets and sends must use the new memory, even if a library has cached registrations of
/// the old one.
pub fn remapped_memory_is_not_reached_through_old_registrations(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        let (spot, len) = (Spot::new(LEN), LEN.min(peer.caps().put_max));
        for round in 0..16u32 {
            let key = peer.seed ^ u64::from(round);
            if peer.pe == Pe(1) {
                let window = peer.expose(untouched(spot.map(LEN)));
                peer.post_key("window", round, &window.key);
                assert_eq!(peer.announced().await, (Pe(0), Imm(round)));
                expect_only(&peer.unexpose(window), 0, len, key);
                // The same addresses with new memory once more, for reading.
                let mut memory = spot.map(LEN);
                bytes::pour(!key, &mut memory);
                let window = peer.expose(memory);
                peer.post_key("again", round, &window.key);
                peer.read("got", round).await;
                drop(peer.unexpose(window));
            } else {
                let window = peer.read_key("window", round).await;
                let mut src = spot.map(len);
                bytes::pour(key, &mut src);
                let op = peer.put(Pe(1), src, &window, 0, Some(Imm(round))).await;
                drop(peer.done(op).await);
                let window = peer.read_key("again", round).await;
                let got = peer.get(Pe(1), &window, 0, spot.map(len)).await;
                let mut expected = vec![0; LEN];
                bytes::pour(!key, &mut expected);
                assert!(*got == expected[..len], "round {round}");
                drop(got);
                peer.post("got", round, vec![]);
            }
        }
    });
}

/// Only one of several puts is announced. (The end of the role checks that no other announcement comes.)
pub fn a_put_without_an_immediate_is_not_announced(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(1) {
            let window = peer.expose(untouched(peer.heap(1_000)));
            peer.post_key("window", 0, &window.key);
            peer.read("done", 0).await;
            assert_eq!(peer.announced().await, (Pe(0), Imm(5)));
            assert_eq!(peer.try_announced(), None);
            expect_only(&peer.unexpose(window), 100, 50, 3);
        } else {
            let window = peer.read_key("window", 0).await;
            let _ = peer.put(Pe(1), source(peer, 50, 3, 1), &window, 100, None).await;
            let _ = peer.put(Pe(1), source(peer, 50, 3, 1), &window, 100, Some(Imm(5))).await;
            let _ = peer.put(Pe(1), source(peer, 50, 3, 1), &window, 100, None).await;
            peer.flush().await;
            peer.post("done", 0, vec![]);
        }
    });
}

/// An empty put works as a doorbell, at the window's end as well.
pub fn an_empty_put_is_announced_too(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(1) {
            let window = peer.expose(untouched(peer.heap(64)));
            peer.post_key("window", 0, &window.key);
            for number in 0..2 {
                assert_eq!(peer.announced().await, (Pe(0), Imm(number)));
            }
            assert!(peer.unexpose(window).iter().all(|&byte| byte == UNTOUCHED));
        } else {
            let window = peer.read_key("window", 0).await;
            for (number, at) in [(0, 0), (1, 64)] {
                let op = peer.put(Pe(1), peer.heap(0), &window, at, Some(Imm(number))).await;
                let _ = peer.done(op).await;
            }
        }
    });
}

/// Several PEs put into disjoint parts of one window at the same time.
pub fn puts_of_many_origins_into_one_window_do_not_interfere(bench: &Bench<'_>) {
    const PART: usize = 40_000;
    bench.run(5, async |peer: &Peer| {
        let part = |pe: Pe| (pe.0 as usize - 1) * PART;
        if peer.pe == Pe(0) {
            let window = peer.expose(untouched(peer.heap(4 * PART)));
            peer.post_key("window", 0, &window.key);
            let mut from: Vec<u32> = Vec::new();
            for _ in 0..4 {
                let (pe, imm) = peer.announced().await;
                assert_eq!(imm, Imm(pe.0 * 100));
                from.push(pe.0);
            }
            from.sort_unstable();
            assert_eq!(from, [1, 2, 3, 4]);
            let buf = peer.unexpose(window);
            for pe in peer.others() {
                bytes::expect(u64::from(pe.0), &buf[part(pe)..part(pe) + PART], format_args!("PE {pe}'s part"));
            }
        } else {
            let window = peer.read_key("window", 0).await;
            let src = source(peer, PART, u64::from(peer.pe.0), peer.pe.0);
            let _ = peer.put(Pe(0), src, &window, part(peer.pe) as u64, Some(Imm(peer.pe.0 * 100))).await;
            peer.flush().await;
        }
    });
}

async fn refused_at_once(peer: &Peer, key: &RemoteKey, at: u64, len: usize) {
    let src = source(peer, len, 1, 1);
    let ptr = src.as_ptr() as usize;
    match peer.try_put(Pe(1), src, key, at, Some(Imm(1))).await {
        Err(PostError::BadKey(buf)) => assert_eq!((buf.as_ptr() as usize, buf.len()), (ptr, len), "the same buffer"),
        other => panic!("a put of {len} bytes at {at} of {}: {other:?}", key.len),
    }
}

/// The key contains the length, so the origin itself can refuse.
pub fn a_put_outside_the_window_is_refused_and_touches_nothing(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(1) {
            let window = peer.expose(untouched(peer.heap(1_000)));
            peer.post_key("window", 0, &window.key);
            peer.read("done", 0).await;
            assert!(peer.unexpose(window).iter().all(|&byte| byte == UNTOUCHED));
        } else {
            let key = peer.read_key("window", 0).await;
            for (at, len) in [(0, 1_001), (1, 1_000), (1_000, 1), (1_001, 0), (u64::MAX, 2), (u64::MAX - 499, 500)] {
                refused_at_once(peer, &key, at, len).await;
            }
            peer.post("done", 0, vec![]);
        }
    });
}

/// The result of a put that must not succeed: refused at once, or failed later.
async fn must_fail(peer: &Peer, key: &RemoteKey, at: u64, len: usize, what: &str) {
    match peer.try_put(Pe(1), source(peer, len, 1, 1), key, at, Some(Imm(1))).await {
        Err(PostError::BadKey(_)) => {}
        Ok(Some(op)) => match peer.outcome(op).await {
            Outcome::Failed(..) => {}
            done @ Outcome::Done(_) => panic!("{what}: {done:?}"),
        },
        other => panic!("{what}: {other:?}"),
    }
}

/// Neither the buffer that was taken back nor the next window, which may have the same address, is touched.
pub fn a_put_to_a_window_taken_back_fails_and_touches_nothing(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        for round in 0..10 {
            if peer.pe == Pe(1) {
                let first = peer.expose(untouched(peer.heap(5_000)));
                peer.post_key("window", round, &first.key);
                peer.read("put", round).await;
                peer.announced().await;
                let first = untouched(peer.unexpose(first));
                let second = peer.expose(untouched(peer.heap(5_000)));
                peer.post("gone", round, vec![]);
                peer.read("done", round).await;
                assert!(first.iter().all(|&byte| byte == UNTOUCHED), "memory that was taken back");
                assert!(peer.unexpose(second).iter().all(|&byte| byte == UNTOUCHED), "the next window");
            } else {
                let key = peer.read_key("window", round).await;
                let op = peer.put(Pe(1), source(peer, 100, 1, 1), &key, 0, Some(Imm(0))).await;
                let _ = peer.done(op).await;
                peer.post("put", round, vec![]);
                peer.read("gone", round).await;
                must_fail(peer, &key, 0, 100, "a put to a window that was taken back").await;
                peer.post("done", round, vec![]);
            }
        }
    });
}

/// Keys come from the network, so they are not trusted.
pub fn a_key_that_was_tampered_with_is_refused(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(1) {
            let window = peer.expose(untouched(peer.heap(4_096)));
            peer.post_key("window", 0, &window.key);
            peer.read("done", 0).await;
            assert!(peer.unexpose(window).iter().all(|&byte| byte == UNTOUCHED));
        } else {
            let key = peer.read_key("window", 0).await;
            let forged = |bytes: Box<[u8]>| RemoteKey { len: key.len, bytes };
            for len in 0..key.bytes.len() {
                must_fail(peer, &forged(key.bytes[..len].into()), 0, 64, "a key cut short").await;
            }
            must_fail(peer, &forged([&*key.bytes, &[0; 9]].concat().into()), 0, 64, "a key with extra bytes").await;
            must_fail(peer, &forged(vec![0xff; key.bytes.len()].into()), 0, 64, "a key of ones").await;
            must_fail(peer, &forged(vec![0; key.bytes.len()].into()), 0, 64, "a key of zeros").await;
            let longer = RemoteKey { len: key.len + 4_096, ..key.clone() };
            must_fail(peer, &longer, key.len - 32, 64, "a key that claims more").await;
            must_fail(peer, &longer, key.len, 4_096, "a key that claims more").await;
            peer.post("done", 0, vec![]);
        }
    });
}

/// Any part, into a buffer of any kind.
pub fn a_get_reads_what_the_window_holds(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(1) {
            let window = peer.expose(source(peer, LEN, 7, 1));
            peer.post_key("window", 0, &window.key);
            peer.read("done", 0).await;
            bytes::expect(7, &peer.unexpose(window), "a window that was read");
        } else {
            let key = peer.read_key("window", 0).await;
            for ((at, len), kind) in [(0, LEN), (8, 8), (0, 0), (LEN - 80, 80), (1_024, 100_000)].into_iter().zip(0..) {
                let len = len.min(peer.caps().put_max);
                let dst = match kind % 3 {
                    0 => peer.heap(len),
                    1 => peer.pooled(len),
                    _ => peer.vec(vec![0u8; len]),
                };
                let got = peer.get(Pe(1), &key, at as u64, dst).await;
                assert_eq!(got.len(), len, "a get fills its buffer's length");
                let mut whole = vec![0; LEN];
                bytes::pour(7, &mut whole);
                assert!(*got == whole[at..at + len], "{len} bytes read at {at}");
            }
            peer.post("done", 0, vec![]);
        }
    });
}

/// As for puts.
pub fn a_get_outside_the_window_is_refused(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(1) {
            let window = peer.expose(peer.heap(1_000));
            peer.post_key("window", 0, &window.key);
            peer.read("done", 0).await;
            drop(peer.unexpose(window));
        } else {
            let key = peer.read_key("window", 0).await;
            for (at, len) in [(0, 1_001), (1_000, 1), (u64::MAX, 2)] {
                match peer.try_get(Pe(1), &key, at, untouched(peer.heap(len))).await {
                    Err(PostError::BadKey(buf)) => assert!(buf.iter().all(|&byte| byte == UNTOUCHED)),
                    other => panic!("a get of {len} bytes at {at}: {other:?}"),
                }
            }
            peer.post("done", 0, vec![]);
        }
    });
}

/// As for puts.
pub fn a_get_from_a_window_taken_back_fails(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(1) {
            let window = peer.expose(peer.heap(1_000));
            let key = window.key.clone();
            drop(peer.unexpose(window));
            peer.post_key("window", 0, &key);
        } else {
            let key = peer.read_key("window", 0).await;
            match peer.try_get(Pe(1), &key, 0, peer.heap(100)).await {
                Err(PostError::BadKey(_)) => {}
                Ok(Some(op)) => {
                    let outcome = peer.outcome(op).await;
                    assert!(matches!(outcome, Outcome::Failed(..)), "{outcome:?}");
                }
                other => panic!("a get from a window that was taken back: {other:?}"),
            }
        }
        peer.barrier().await;
    });
}

/// From the pool, the heap or a user's vector, of any length: the same memory comes back.
pub fn memory_of_every_kind_can_be_exposed_and_comes_back(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        for (len, kind) in [(1, 0), (1, 1), (8, 2), (4_096, 0), (9_000, 1), (80_000, 2), (600_000, 0), (1 << 20, 2)] {
            let round = u32::try_from(len).expect("a small number") * 4 + kind;
            if peer.pe == Pe(1) {
                let buf = match kind {
                    0 => peer.pooled(len),
                    1 => peer.heap(len),
                    _ => peer.vec(vec![0f64; len / 8]),
                };
                let ptr = buf.as_ptr() as usize;
                let window = peer.expose(untouched(buf));
                peer.post_key("window", round, &window.key);
                assert_eq!(peer.announced().await, (Pe(0), Imm(round)));
                let buf = peer.unexpose(window);
                assert_eq!((buf.as_ptr() as usize, buf.len()), (ptr, len), "the same memory comes back");
                bytes::expect(u64::from(round), &buf, "the window");
            } else {
                let key = peer.read_key("window", round).await;
                let mut whole = vec![0; len];
                bytes::pour(u64::from(round), &mut whole);
                let pieces = whole.chunks(peer.caps().put_max.min(len));
                let count = pieces.len();
                for (number, piece) in pieces.enumerate() {
                    let mut src = source(peer, piece.len(), 0, kind);
                    src.copy_from_slice(piece);
                    let at = (number * peer.caps().put_max.min(len)) as u64;
                    let op = peer.put(Pe(1), src, &key, at, (number + 1 == count).then_some(Imm(round))).await;
                    let _ = peer.done(op).await;
                }
            }
        }
    });
}

/// All three at once, in both directions.
pub fn puts_and_gets_and_messages_do_not_disturb_each_other(bench: &Bench<'_>) {
    const ROUNDS: u32 = 200;
    const SLOT: usize = 1_000;
    bench.run(2, async |peer: &Peer| {
        let to = Pe(1 - peer.pe.0);
        let written = peer.expose(untouched(peer.heap(ROUNDS as usize * SLOT)));
        let read = peer.expose(source(peer, LEN, 99, 1));
        peer.post_key("written", peer.pe.0, &written.key);
        peer.post_key("read", peer.pe.0, &read.key);
        let (theirs, source_key) = (peer.read_key("written", to.0).await, peer.read_key("read", to.0).await);
        let mut gets = Vec::new();
        for round in 0..ROUNDS {
            let at = u64::from(round) * SLOT as u64;
            let _ = peer.put(to, source(peer, SLOT, at, round), &theirs, at, Some(Imm(round))).await;
            peer.inject(to, Imm(round), 20).await;
            let from = peer.rng(|rng| rng.range(0..(LEN / 8 - 200) as u64)) * 8;
            let op = peer.try_get(to, &source_key, from, peer.heap(1_600)).await.expect("a get is accepted");
            gets.push((from, op.expect("a get is pending")));
        }
        let mut whole = vec![0; LEN];
        bytes::pour(99, &mut whole);
        for (from, op) in gets {
            match peer.outcome(op).await {
                Outcome::Done(Some(buf)) => {
                    let from = usize::try_from(from).expect("a small number");
                    assert!(*buf == whole[from..from + 1_600], "bytes read at {from}");
                }
                other => panic!("get: {other:?}"),
            }
        }
        for _ in 0..ROUNDS {
            peer.announced().await;
            let (from, imm, msg) = peer.recv().await;
            peer.expect(from, imm, &msg);
        }
        peer.flush().await;
        peer.barrier().await;
        for (slot, at) in peer.unexpose(written).chunks(SLOT).zip((0..).step_by(SLOT)) {
            bytes::expect(at, slot, format_args!("the slot at {at}"));
        }
        drop(peer.unexpose(read));
    });
}
