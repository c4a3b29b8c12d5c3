//! Laws of the end: posted messages are delivered, and a death is noticed.

use super::{Bench, Outcome, Peer};
use charm4rs_transport_core::{Imm, Pe, PostError};

/// A PE posts and closes without polling again.
pub fn close_delivers_what_was_posted(bench: &Bench<'_>) {
    const COUNT: u32 = 300;
    let len = |number: u32| if number == 150 { 2_000_000 } else { number as usize * 13 };
    bench.run(2, async |peer: &Peer| {
        let len = |number| len(number).min(peer.caps().send_max);
        if peer.pe == Pe(0) {
            for number in 0..COUNT {
                let _ = peer.send(Pe(1), Imm(number), peer.loaded(Pe(1), Imm(number), len(number))).await;
            }
            peer.close();
        } else {
            peer.allow_losses();
            let mut stream = super::messages::Stream::new(peer);
            for _ in 0..COUNT {
                let (from, imm, msg) = peer.recv().await;
                stream.take(from, imm);
                assert_eq!(msg.len(), len(imm.0));
                peer.expect(from, imm, &msg);
            }
        }
    });
}

/// A PE that has sent to a peer, and waits until the peer has capacity again, must learn when the peer has closed. It must not be told so of a peer that
/// is only slow.
pub fn has_closed_is_true_once_a_peer_has_closed_and_not_before(bench: &Bench<'_>) {
    bench.run(3, async |peer: &Peer| {
        let has_closed = |pe| peer.end(|end| end.has_closed(pe));
        if peer.pe != Pe(0) {
            peer.allow_losses();
            let (from, imm, msg) = peer.recv().await;
            peer.expect(from, imm, &msg);
            let until = if peer.pe == Pe(1) { "looked" } else { "known" };
            peer.read(until, 0).await;
            return peer.close();
        }
        peer.allow_losses();
        // The peers have not polled yet, or have just begun.
        assert!(!has_closed(Pe(1)) && !has_closed(Pe(2)));
        for to in peer.others() {
            peer.inject(to, Imm(7), 16).await;
        }
        for _ in 0..20 {
            peer.breathe().await;
            assert!(!has_closed(Pe(1)) && !has_closed(Pe(2)));
        }
        peer.post("looked", 0, vec![]);
        peer.until(|| has_closed(Pe(1)).then_some(())).await;
        assert!(!has_closed(Pe(2)), "only one of them has closed");
        peer.post("known", 0, vec![]);
    });
}

/// A job of one PE.
pub fn a_group_of_one_opens_and_closes(bench: &Bench<'_>) {
    bench.run(1, async |peer: &Peer| {
        assert_eq!(peer.pe, Pe(0));
        let window = peer.expose(peer.heap(100));
        drop(peer.unexpose(window));
    });
}

/// A PE that communicates with a peer when it dies learns of the death in one of two ways, and then posts are refused.
pub fn the_death_of_a_peer_is_reported_and_posts_to_it_are_refused(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        peer.allow_losses();
        if peer.pe == Pe(1) {
            let _ = peer.recv().await;
            return peer.die();
        }
        let mut number = 0;
        loop {
            match peer.inject_once(Pe(1), Imm(number), 8) {
                Ok(()) => number += 1,
                Err(PostError::Busy(())) => {}
                Err(PostError::PeerDown(pe, ())) => break assert_eq!(pe, Pe(1)),
                Err(other) => panic!("inject: {other:?}"),
            }
            peer.breathe().await;
        }
        peer.until(|| peer.lost().contains(&Pe(1)).then_some(())).await;
        let buf = peer.heap(1_000);
        let ptr = buf.as_ptr() as usize;
        match peer.try_send(Pe(1), Imm(0), buf).await {
            Err(PostError::PeerDown(pe, buf)) => assert_eq!((pe, buf.as_ptr() as usize), (Pe(1), ptr)),
            other => panic!("send: {other:?}"),
        }
    });
}

/// They end as done or as failed, and their buffers come back (they are counted).
pub fn operations_to_a_dead_peer_end_exactly_once(bench: &Bench<'_>) {
    bench.run(2, async |peer: &Peer| {
        peer.allow_losses();
        if peer.pe == Pe(1) {
            peer.until_frozen(|| peer.peek("posted", 0)).await;
            return peer.die();
        }
        let mut pending = 0;
        let len = 100_000.min(peer.caps().send_max);
        for number in 0..200 {
            match peer.send_once(Pe(1), Imm(number), peer.loaded(Pe(1), Imm(number), len)) {
                Ok(op) => pending += usize::from(op.is_some()),
                Err(PostError::Busy(_)) => break,
                Err(other) => panic!("send: {other:?}"),
            }
        }
        peer.post("posted", 0, vec![]);
        let ended = peer.drain().await;
        assert_eq!(ended.len(), pending);
        for outcome in ended {
            if let Outcome::Failed(_, error) = outcome {
                assert_eq!(error.code(), 69, "{error}");
            }
        }
    });
}

/// One of four dies; the traffic of the other three is not disturbed.
pub fn the_other_pes_continue_when_one_dies(bench: &Bench<'_>) {
    const COUNT: u32 = 200;
    bench.run(4, async |peer: &Peer| {
        peer.allow_losses();
        if peer.pe == Pe(3) {
            peer.inject(Pe(0), Imm(0), 8).await;
            for _ in 0..20 {
                peer.breathe().await;
            }
            return peer.die();
        }
        let living = || (0..3).map(Pe).filter(|&pe| pe != peer.pe);
        let mut stream = super::messages::Stream::new(peer);
        // What the dead PE sent before it died arrives, or does not, but not after its loss is reported. It may be late.
        let mut heard_the_dead = peer.pe != Pe(0);
        let mut take = || {
            heard_the_dead |= peer.lost().contains(&Pe(3));
            while let Some((from, imm, msg)) = peer.try_recv() {
                if from == Pe(3) {
                    heard_the_dead = true;
                } else {
                    stream.take(from, imm);
                }
                peer.expect(from, imm, &msg);
            }
            heard_the_dead && living().all(|pe| stream.count(pe) == COUNT as usize)
        };
        for number in 0..COUNT {
            for to in living() {
                let _ = peer.send(to, Imm(number), peer.loaded(to, Imm(number), 500)).await;
            }
            take();
        }
        peer.until(|| take().then_some(())).await;
        let _ = peer.drain().await;
        assert!(peer.lost().iter().all(|&pe| pe == Pe(3)), "only the dead PE is lost: {:?}", peer.lost());
    });
}
