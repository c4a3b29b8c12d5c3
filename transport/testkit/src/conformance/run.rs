//! Runs the roles of a law: on threads, or stepped on one thread.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use super::peer::{Fate, GroupState};
use super::{Death, Group, Peer, World};
use charm4rs_transport_core::seed::Rng;
use charm4rs_transport_core::{Doorbell, EndpointBuilder, Pe};

/// Plays `role` on every PE of the group.
pub(super) fn run(group: Group, pes: u32, seed: u64, role: impl AsyncFn(&Peer) + Sync) {
    let shared = Arc::<GroupState>::default();
    match group {
        Group::Threads { builders, death, keep } => {
            assert_eq!(builders.len(), pes as usize, "the harness gives one builder for each PE");
            on_threads(builders, &death, seed, &role, &shared);
            drop(keep);
        }
        Group::Stepped(world) => {
            assert_eq!(world.pes(), pes, "the harness gives a world of the requested size");
            stepped(&world, seed, &role, &shared);
        }
    }
    assert_eq!(shared.counted.live(), 0, "buffers are still in use when everything is closed");
}

async fn part(peer: &Peer, role: &(impl AsyncFn(&Peer) + Sync)) {
    role(peer).await;
    peer.finish().await;
}

fn on_threads(
    builders: Vec<Box<dyn EndpointBuilder>>,
    death: &Death,
    seed: u64,
    role: &(impl AsyncFn(&Peer) + Sync),
    shared: &Arc<GroupState>,
) {
    let pes = u32::try_from(builders.len()).expect("PEs are counted in 32 bits");
    let (opened, closing) = (AtomicU32::new(0), AtomicU32::new(0));
    let (opened, closing) = (&opened, &closing);
    let failures: Vec<Box<dyn Any + Send>> = std::thread::scope(|scope| {
        let play = |builder: Box<dyn EndpointBuilder>| {
            let doorbell = Doorbell::new().expect("a doorbell");
            let end = builder.build(&doorbell).unwrap_or_else(|e| panic!("an endpoint does not open: {e}"));
            let peer = Peer::new(end, pes, seed, Some(doorbell), Fate::Thread(death.clone()), shared.clone());
            meet(opened, pes, shared);
            drive(&peer, pin!(part(&peer, role)));
            meet(closing, pes, shared);
            peer.close();
        };
        let threads: Vec<_> = builders
            .into_iter()
            .map(|builder| {
                scope.spawn(move || {
                    let outcome = catch_unwind(AssertUnwindSafe(|| play(builder)));
                    if outcome.is_err() {
                        shared.failed.store(true, Ordering::Release);
                    }
                    outcome
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("panics are caught").err()).collect()
    });
    // The first failure stops the other PEs: show the panic that has the reason.
    let is_echo = |panic: &Box<dyn Any + Send>| panic.is::<Stopped>();
    if let Some(panic) = failures.into_iter().min_by_key(is_echo) {
        resume_unwind(panic);
    }
}

/// The panic of a thread that was stopped because another one failed.
struct Stopped;

fn stop_if_failed(shared: &GroupState) {
    if shared.failed.load(Ordering::Acquire) {
        resume_unwind(Box::new(Stopped));
    }
}

fn meet(count: &AtomicU32, pes: u32, shared: &GroupState) {
    count.fetch_add(1, Ordering::AcqRel);
    while count.load(Ordering::Acquire) < pes {
        stop_if_failed(shared);
        std::thread::yield_now();
    }
}

fn drive(peer: &Peer, mut part: Pin<&mut impl Future<Output = ()>>) {
    let mut cx = Context::from_waker(Waker::noop());
    while part.as_mut().poll(&mut cx).is_pending() {
        stop_if_failed(&peer.shared);
        if peer.turn() == 0 {
            std::thread::yield_now();
        }
    }
}

/// The number of rounds without any event after which a stepped world counts as stuck. (A role may need a few rounds
/// without events, for example to read the board.)
const IDLE_ROUNDS: u32 = 1_000;

fn stepped(world: &Rc<dyn World>, seed: u64, role: &(impl AsyncFn(&Peer) + Sync), shared: &Arc<GroupState>) {
    let pes = world.pes();
    let peers: Vec<Peer> = (0..pes)
        .map(|pe| Peer::new(world.endpoint(Pe(pe)), pes, seed, None, Fate::Stepped(world.clone()), shared.clone()))
        .collect();
    let mut parts: Vec<_> = peers.iter().map(|peer| (peer, Some(Box::pin(part(peer, role))))).collect();
    let mut cx = Context::from_waker(Waker::noop());
    let mut rng = Rng::stream(seed, u64::MAX);
    let mut idle = 0;
    while parts.iter().any(|(_, part)| part.is_some()) {
        let mut events = 0;
        rng.shuffle(&mut parts);
        for (peer, slot) in &mut parts {
            if let Some(part) = slot {
                if let Poll::Ready(()) = part.as_mut().poll(&mut cx) {
                    *slot = None;
                    events += 1;
                }
                events += peer.turn();
            }
        }
        if events == 0 && !world.advance() {
            idle += 1;
            assert!(idle < IDLE_ROUNDS, "nothing will ever happen again, and roles still wait");
        } else {
            idle = 0;
        }
    }
    drop(parts);
    for peer in &peers {
        peer.close();
    }
    while world.advance() {}
}
