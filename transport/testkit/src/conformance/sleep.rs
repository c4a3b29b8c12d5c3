//! Laws of sleep: arrivals wake a sleeping PE.

use std::time::Duration;

use super::{Bench, Peer};
use charm4rs_transport_core::{Imm, Pe};

/// Far longer than any wake-up takes, and well below the watchdog: a later wake counts as lost.
const LOST: Duration = Duration::from_secs(20);

/// Waits as an idle PE does, without spinning.
fn asleep_until<R>(peer: &Peer, mut ready: impl FnMut() -> Option<R>) -> R {
    loop {
        if let Some(value) = ready() {
            return value;
        }
        if peer.progress(16) == 0 {
            assert!(peer.sleep(LOST), "PE {}: a wake-up was lost", peer.pe);
        }
    }
}

/// Two PEs that sleep whenever they have nothing to do play ping-pong.
pub fn a_sleeping_receiver_is_woken_by_every_message(bench: &Bench<'_>) {
    const ROUNDS: u32 = 10_000;
    bench.run(2, async |peer: &Peer| {
        let to = Pe(1 - peer.pe.0);
        for round in 0..ROUNDS {
            if round % 2 == peer.pe.0 {
                peer.inject(to, Imm(round), 8).await;
            } else {
                let (from, imm, msg) = asleep_until(peer, || peer.try_recv());
                assert_eq!((from, imm), (to, Imm(round)));
                peer.expect(from, imm, &msg);
            }
        }
    });
}

/// As for a message.
pub fn a_sleeping_receiver_is_woken_by_an_announced_put(bench: &Bench<'_>) {
    const ROUNDS: u32 = 2_000;
    bench.run(2, async |peer: &Peer| {
        let to = Pe(1 - peer.pe.0);
        let window = peer.expose(peer.heap(64));
        peer.post_key("window", peer.pe.0, &window.key);
        let key = peer.read_key("window", to.0).await;
        for round in 0..ROUNDS {
            if round % 2 == peer.pe.0 {
                let _ = peer.put(to, peer.heap(64), &key, 0, Some(Imm(round))).await;
            } else {
                assert_eq!(asleep_until(peer, || peer.try_announced()), (to, Imm(round)));
            }
        }
        peer.flush().await;
        peer.barrier().await;
        drop(peer.unexpose(window));
    });
}

/// A PE whose posts are pending sleeps until they are complete: no other event would wake it.
pub fn a_sleeping_sender_is_woken_when_its_posts_complete(bench: &Bench<'_>) {
    const COUNT: u32 = 300;
    bench.run(2, async |peer: &Peer| {
        let len = 60_000.min(peer.caps().send_max);
        if peer.pe == Pe(0) {
            for number in 0..COUNT {
                let _ = peer.send(Pe(1), Imm(number), peer.loaded(Pe(1), Imm(number), len)).await;
            }
            asleep_until(peer, || (peer.pending() == 0).then_some(()));
            peer.drain().await;
        } else {
            for _ in 0..COUNT {
                let (from, imm, msg) = peer.recv().await;
                peer.expect(from, imm, &msg);
            }
        }
    });
}
