//! Laws of messages: each message arrives once and intact, and every answer to a post is true.

use std::collections::BTreeMap;

use super::{Bench, Peer};
use charm4rs_transport_core::memory::Msg;
use charm4rs_transport_core::seed::Rng;
use charm4rs_transport_core::{Imm, Pe, PostError};

/// Lengths around every size that a backend may treat as a boundary, in random order.
fn lengths(seed: u64, max: usize, rounds: usize) -> Vec<usize> {
    let mut rng = Rng::new(seed);
    let powers = (0..21).map(|bit| 1usize << bit);
    let mut lengths: Vec<usize> = powers.flat_map(|p| [p - 1, p, p + 1, p + rng.below(p)]).collect();
    lengths.extend([0, 24, 40, 48, 56, 72, 96, 112, 120, 1_500, 9_000, 65_507, 100_000, 3_000_000]);
    lengths.retain(|&len| len <= max);
    let mut all = Vec::new();
    for _ in 0..rounds {
        rng.shuffle(&mut lengths);
        all.extend_from_slice(&lengths);
    }
    all
}

/// Checks a stream of messages whose immediates count from 0: each arrives once, and in order if the backend promises it.
pub(super) struct Stream {
    ordered: bool,
    seen: BTreeMap<Pe, (u32, Vec<bool>)>,
}

impl Stream {
    pub(super) fn new(peer: &Peer) -> Self {
        Self { ordered: peer.caps().ordered, seen: BTreeMap::new() }
    }

    pub(super) fn take(&mut self, from: Pe, Imm(number): Imm) {
        let (last, seen) = self.seen.entry(from).or_default();
        let at = number as usize;
        if seen.len() <= at {
            seen.resize(at + 1, false);
        }
        assert!(!std::mem::replace(&mut seen[at], true), "message {number} of PE {from} arrived twice");
        assert!(!self.ordered || number == 0 || *last + 1 == number, "PE {from}: {number} after {last}");
        *last = number;
    }

    pub(super) fn count(&self, from: Pe) -> usize {
        self.seen.get(&from).map_or(0, |(_, seen)| seen.iter().filter(|seen| **seen).count())
    }
}

/// Two PEs send all lengths to each other at the same time, in every way of sending.
pub fn messages_of_many_sizes_arrive_intact_once_and_in_order(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        let to = Pe(1 - peer.pe.0);
        let lengths = lengths(peer.seed, peer.caps().send_max, 4);
        let mut stream = Stream::new(peer);
        let mut receive = |(from, imm, msg): (Pe, Imm, Msg)| {
            stream.take(from, imm);
            assert_eq!(msg.len(), lengths[imm.0 as usize], "the length of message {}", imm.0);
            peer.expect(from, imm, &msg);
        };
        let mut received = 0;
        for (&len, number) in lengths.iter().zip(0..) {
            if len <= peer.caps().inject_max && peer.rng(|rng| rng.chance(0.5)) {
                peer.inject(to, Imm(number), len).await;
            } else {
                let _ = peer.send(to, Imm(number), peer.loaded(to, Imm(number), len)).await;
            }
            while let Some(message) = peer.try_recv() {
                receive(message);
                received += 1;
            }
        }
        while received < lengths.len() {
            receive(peer.recv().await);
            received += 1;
        }
        peer.flush().await;
    });
}

/// The backend uses no bit of an immediate for itself.
pub fn all_32_bits_of_an_immediate_arrive(bench: &Bench<'_>) {
    let mut imms: Vec<Imm> = (0..32).flat_map(|bit| [Imm(1 << bit), Imm(!(1 << bit))]).collect();
    imms.extend([Imm(0), Imm(u32::MAX)]);
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(0) {
            for &imm in &imms {
                peer.inject(Pe(1), imm, 5).await;
                let _ = peer.send(Pe(1), imm, peer.loaded(Pe(1), imm, 5)).await;
            }
            return peer.flush().await;
        }
        let mut got = Vec::new();
        while got.len() < 2 * imms.len() {
            let (from, imm, msg) = peer.recv().await;
            peer.expect(from, imm, &msg);
            got.push(imm.0);
        }
        let mut sent: Vec<u32> = imms.iter().flat_map(|imm| [imm.0, imm.0]).collect();
        sent.sort_unstable();
        got.sort_unstable();
        assert_eq!(got, sent);
    });
}

/// The limit in the capabilities is the real limit.
pub fn inject_takes_up_to_its_limit_and_refuses_more(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        let max = peer.caps().inject_max;
        if peer.pe == Pe(0) {
            peer.inject(Pe(1), Imm(0), max).await;
            for above in [max + 1, max + 2, 2 * max + 64, usize::MAX / 2] {
                match peer.inject_once(Pe(1), Imm(1), above) {
                    Err(PostError::TooLarge { max: said, buf: () }) => assert_eq!(said, max),
                    other => panic!("inject of {above} bytes: {other:?}"),
                }
            }
            peer.inject(Pe(1), Imm(2), max.min(1)).await;
        } else {
            for (number, len) in [(0, max), (2, max.min(1))] {
                let (from, imm, msg) = peer.recv().await;
                assert_eq!((from, imm, msg.len()), (Pe(0), Imm(number), len));
                peer.expect(from, imm, &msg);
            }
        }
    });
}

/// As for inject, if the limit is small enough to test.
pub fn send_refuses_what_is_above_its_limit(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        let max = peer.caps().send_max;
        if peer.pe == Pe(0) && max <= 1 << 30 {
            let buf = peer.heap(max + 1);
            let ptr = buf.as_ptr() as usize;
            match peer.send_once(Pe(1), Imm(0), buf) {
                Err(PostError::TooLarge { max: said, buf }) => {
                    assert_eq!((said, buf.as_ptr() as usize, buf.len()), (max, ptr, max + 1));
                }
                other => panic!("send of {} bytes: {other:?}", max + 1),
            }
        }
    });
}

/// While a receiver does nothing, posts are accepted until `Busy`. Then it works again, and all messages arrive.
pub fn a_busy_post_gives_the_buffer_back_and_succeeds_later(bench: &Bench<'_>) {
    const MOST: u32 = 20_000;
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(0) {
            let mut number = 0;
            while number < MOST {
                let buf = peer.loaded(Pe(1), Imm(number), 4_096);
                let (ptr, len) = (buf.as_ptr() as usize, buf.len());
                match peer.send_once(Pe(1), Imm(number), buf) {
                    Ok(_) => number += 1,
                    Err(PostError::Busy(back)) => {
                        assert_eq!((back.as_ptr() as usize, back.len()), (ptr, len), "the same buffer");
                        super::bytes::expect(peer.key(Pe(1), Imm(number)), &back, "a refused buffer");
                        peer.post("go", 0, vec![]);
                        let _ = peer.send(Pe(1), Imm(number), back).await;
                        number += 1;
                        break;
                    }
                    other => panic!("send: {other:?}"),
                }
            }
            peer.post("go", 0, number.to_le_bytes().into());
            peer.post("sent", 0, number.to_le_bytes().into());
            peer.flush().await;
        } else {
            peer.until_frozen(|| peer.peek("go", 0)).await;
            let mut stream = Stream::new(peer);
            let mut take = |(from, imm, msg): (Pe, Imm, Msg)| {
                stream.take(from, imm);
                assert_eq!(msg.len(), 4_096);
                peer.expect(from, imm, &msg);
            };
            let mut received = 0;
            loop {
                let sent = peer.peek("sent", 0).map(|n| u32::from_le_bytes(n.try_into().expect("four bytes")));
                while let Some(message) = peer.try_recv() {
                    take(message);
                    received += 1;
                }
                if sent == Some(received) {
                    break;
                }
                peer.breathe().await;
            }
        }
    });
}

/// A sender's memory is bounded even if its receiver does nothing: 256 MiB is four times the default credit.
pub fn inject_is_refused_at_some_time_if_the_receiver_does_nothing(bench: &Bench<'_>) {
    const MOST: usize = 256 << 20;
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(0) {
            let len = peer.caps().inject_max.min(4_096);
            let mut number = 0u32;
            let mut refused = 0;
            // A single refusal may be temporary: the kernel's buffers still drain into one another.
            while refused < 100 {
                assert!(
                    (number as usize) * len < MOST,
                    "{number} messages of {len} bytes were accepted, but none is received"
                );
                match peer.inject_once(Pe(1), Imm(number), len) {
                    Ok(()) => number += 1,
                    Err(PostError::Busy(())) => {
                        refused += 1;
                        peer.breathe().await;
                    }
                    Err(other) => panic!("inject: {other:?}"),
                }
            }
            peer.post("sent", 0, number.to_le_bytes().into());
        } else {
            let sent = peer.until_frozen(|| peer.peek("sent", 0)).await;
            let sent = u32::from_le_bytes(sent.try_into().expect("four bytes"));
            let mut stream = Stream::new(peer);
            for _ in 0..sent {
                let (from, imm, msg) = peer.recv().await;
                stream.take(from, imm);
                peer.expect(from, imm, &msg);
            }
        }
    });
}

/// (Every law checks at every event that no operation gets a second one.)
pub fn every_pending_send_gets_one_event_and_a_done_one_none(bench: &Bench<'_>) {
    const COUNT: u32 = 2_000;
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(0) {
            let mut pending = 0;
            for number in 0..COUNT {
                let len = peer.rng(|rng| rng.below(20_000)).min(peer.caps().send_max);
                let op = peer.send(Pe(1), Imm(number), peer.loaded(Pe(1), Imm(number), len)).await;
                pending += usize::from(op.is_some());
            }
            let ended = peer.drain().await.len();
            assert_eq!(ended, pending, "as many events as pending sends");
            peer.barrier().await;
            for _ in 0..100 {
                peer.breathe().await;
            }
            assert_eq!(peer.drain().await.len(), 0, "no event comes later");
        } else {
            for _ in 0..COUNT {
                let (from, imm, msg) = peer.recv().await;
                peer.expect(from, imm, &msg);
            }
            peer.barrier().await;
        }
    });
}

/// From the pool, the heap, vectors of bytes and of numbers, cut short, and empty.
pub fn buffers_of_every_kind_are_sent(bench: &Bench<'_>) {
    const LENGTHS: [usize; 7] = [0, 1, 100, 4_096, 70_000, 300_000, 2_000_000];
    bench.run(2, async |peer: &Peer| {
        let lengths: Vec<usize> = LENGTHS.into_iter().filter(|&len| len * 8 <= peer.caps().send_max).collect();
        if peer.pe == Pe(0) {
            let mut number = 0;
            for &len in &lengths {
                for kind in 0..6 {
                    let mut buf = match kind {
                        0 => peer.pooled(len),
                        1 => peer.heap(len),
                        2 => peer.vec(vec![0u8; len]),
                        3 => peer.vec(vec![0f64; len / 8]),
                        4 => peer.pooled(len + 1_000),
                        _ => peer.heap(2 * len + 1),
                    };
                    buf.set_len(if kind == 3 { len / 8 * 8 } else { len });
                    super::bytes::pour(peer.key(Pe(1), Imm(number)), &mut buf);
                    let op = peer.send(Pe(1), Imm(number), buf).await;
                    let _ = peer.done(op).await;
                    number += 1;
                }
            }
        } else {
            for _ in 0..lengths.len() * 6 {
                let (from, imm, msg) = peer.recv().await;
                let (len, kind) = (lengths[imm.0 as usize / 6], imm.0 % 6);
                assert_eq!(msg.len(), if kind == 3 { len / 8 * 8 } else { len });
                peer.expect(from, imm, &msg);
            }
        }
    });
}

/// How many buffers of `len` bytes the pool has now, at most `most`.
fn free_in_pool(peer: &Peer, len: usize, most: usize) -> usize {
    let held: Vec<_> = std::iter::from_fn(|| peer.end(|end| end.alloc(len))).take(most).collect();
    held.len()
}

/// After much traffic the pool has as many free buffers as before.
pub fn no_pool_leaks(bench: &Bench<'_>) {
    const LEN: usize = 8_192;
    const MOST: usize = 8_192;
    bench.run(2, async |peer: &Peer| {
        let to = Pe(1 - peer.pe.0);
        let before = free_in_pool(peer, LEN, MOST);
        for round in 0..40 {
            for number in round * 50..(round + 1) * 50 {
                let len = peer.rng(|rng| rng.below(2 * LEN)).min(peer.caps().send_max);
                let mut buf = peer.pooled(len);
                super::bytes::pour(peer.key(to, Imm(number)), &mut buf);
                let _ = peer.send(to, Imm(number), buf).await;
            }
            for _ in 0..50 {
                let (from, imm, msg) = peer.recv().await;
                peer.expect(from, imm, &msg);
                // Other owners than the endpoint keep some of them for a while, as owned buffers.
                drop((imm.0 % 2 == 0).then(|| msg.into_buf()));
            }
        }
        peer.flush().await;
        peer.barrier().await;
        // Buffers that the peer has dropped may come back through progress.
        peer.until(|| (free_in_pool(peer, LEN, MOST) >= before).then_some(())).await;
        peer.barrier().await;
    });
}

/// Every size, including a pool's boundary cases.
pub fn an_allocated_buffer_has_its_length_and_is_aligned_to_a_cache_line(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        for len in lengths(peer.seed, 1 << 20, 1) {
            if let Some(mut buf) = peer.end(|end| end.alloc(len)) {
                assert_eq!(buf.len(), len);
                assert!(buf.capacity() >= len);
                assert_eq!(buf.as_ptr() as usize % 64, 0, "a buffer of {len} bytes");
                buf.fill(0xa5);
            }
        }
    });
}

/// Also a batch of length zero, which loses no event.
pub fn a_batch_is_never_longer_than_asked_for(bench: &Bench<'_>) {
    const COUNT: u32 = 50;
    bench.run(2, async |peer: &Peer| {
        if peer.pe == Pe(0) {
            for number in 0..COUNT {
                peer.inject(Pe(1), Imm(number), 8).await;
            }
            peer.post("sent", 0, vec![]);
            peer.barrier().await;
        } else {
            let mut stream = Stream::new(peer);
            let mut received = 0;
            let mut max = 0;
            while received < COUNT {
                // `until_frozen`: all progress here is made by the law itself.
                let mut first = true;
                peer.until_frozen(|| (!std::mem::take(&mut first)).then_some(())).await;
                peer.progress(max);
                max = (max + 1) % 4;
                while let Some((from, imm, msg)) = peer.try_recv() {
                    stream.take(from, imm);
                    peer.expect(from, imm, &msg);
                    received += 1;
                }
            }
            peer.barrier().await;
        }
    });
}

/// A chare may keep a message for later; this must not block the messages behind it.
pub fn messages_may_be_kept_while_others_arrive(bench: &Bench<'_>) {
    const COUNT: u32 = 20_000;
    bench.run(2, async |peer: &Peer| {
        let len = |number: u32| (number as usize * 7) % peer.caps().inject_max.min(200);
        if peer.pe == Pe(0) {
            for number in 0..COUNT {
                peer.inject(Pe(1), Imm(number), len(number)).await;
            }
        } else {
            let mut kept = Vec::new();
            for _ in 0..COUNT {
                let (from, imm, msg) = peer.recv().await;
                assert_eq!(msg.len(), len(imm.0));
                if imm.0 % 20 == 0 {
                    kept.push((from, imm, msg));
                } else {
                    peer.expect(from, imm, &msg);
                }
            }
            peer.rng(|rng| rng.shuffle(&mut kept));
            for (from, imm, msg) in kept {
                peer.expect(from, imm, &msg);
            }
        }
    });
}

/// The receiver may write through the message's pointer, and turn it into a buffer. No other PE sees that.
pub fn the_bytes_of_a_message_belong_to_its_receiver(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        let lengths = lengths(peer.seed, peer.caps().send_max.min(200_000), 2);
        let to = Pe(1 - peer.pe.0);
        if peer.pe == Pe(0) {
            for (&len, number) in lengths.iter().zip(0..) {
                let _ = peer.send(to, Imm(number), peer.loaded(to, Imm(number), len)).await;
            }
            peer.flush().await;
        } else {
            for _ in &lengths {
                let (from, imm, msg) = peer.recv().await;
                peer.expect(from, imm, &msg);
                let len = msg.len();
                let mut buf = msg.into_buf();
                assert_eq!(buf.len(), len);
                buf.fill(!0);
                assert!(buf.iter().all(|&byte| byte == !0));
            }
        }
    });
}
