//! The processes of a host connect, strangers do not, and a death is noticed.

use std::os::fd::AsFd;
use std::sync::mpsc;

use rustix::net::{Shutdown, shutdown};

use super::*;
use charm4rs_transport_core::auth::{JobId, Secret};

const PATIENCE: Duration = Duration::from_secs(30);

fn keys(secret: u8) -> Keys {
    Keys::new(JobId(*b"hostpeer"), &Secret::new([secret; 32]))
}

/// A host of processes `first..first + n`, each a thread. Strangers come before them.
fn meet(first: u32, n: u32, before: impl FnOnce(&[u8; Listener::NAME]), gone: &mpsc::Sender<String>) -> Vec<HostPeers> {
    let listeners: Vec<Listener> = (0..n).map(|_| Listener::open().unwrap()).collect();
    let leader = *listeners[0].name();
    before(&leader);
    let keys = keys(1);
    std::thread::scope(|scope| {
        let spawn = |(rank, listener)| {
            let (keys, gone) = (&keys, gone.clone());
            let connecting = Connecting { keys, rank, host: first..first + n, listener, leader, patience: PATIENCE };
            scope.spawn(move || connecting.connect(move |_, what| gone.send(what.to_owned()).unwrap()).unwrap())
        };
        let threads: Vec<_> = (first..).zip(listeners).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn dial(leader: &[u8; Listener::NAME]) -> Channel {
    let socket = socket().unwrap();
    connect(&socket, &address(leader).unwrap()).unwrap();
    Channel::from(socket)
}

#[test]
fn descriptors_reach_every_process_of_the_host() {
    let peers = meet(5, 4, |_| {}, &mpsc::channel().0);
    std::thread::scope(|scope| {
        for one in peers {
            scope.spawn(move || {
                for round in 0..3u64 {
                    let own = one.links.rank;
                    // One process sends more than fit into one packet; another sends none.
                    let counts = |rank: u32| [1, 300, 0, 2][(rank - 5) as usize];
                    let fds: Vec<OwnedFd> = (0..counts(own))
                        .map(|_| eventfd(own * 10 + u32::try_from(round).unwrap(), EventfdFlags::CLOEXEC).unwrap())
                        .collect();
                    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                    let shared = one.share_fds(&fds).unwrap();
                    assert_eq!(shared.len(), 4);
                    for (rank, fds) in (5..).zip(&shared) {
                        assert_eq!(fds.len(), counts(rank), "of {rank}");
                    }
                    if own == 8 {
                        // The first descriptor of each process belongs to the expected process.
                        for rank in [5u32, 6, 8] {
                            let mut count = [0; 8];
                            rustix::io::read(&shared[(rank - 5) as usize][0], &mut count).unwrap();
                            assert_eq!(u64::from_ne_bytes(count), u64::from(rank) * 10 + round);
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn strangers_are_turned_away_and_the_job_starts() {
    let strangers = std::cell::RefCell::new(Vec::new());
    let peers = meet(
        0,
        2,
        |leader| {
            let garbage = dial(leader);
            garbage.send(&[7; HELLO], &[]).unwrap();
            let short = dial(leader);
            short.send(b"x", &[]).unwrap();
            drop(dial(leader));
            // A process that knows the name of this job but not the secret, with descriptors.
            let liar = dial(leader);
            let hello =
                Hello { purpose: Purpose::Control, terms: TERMS, rank: 1, from: Pe(1), to: Pe(0), generation: 1 };
            liar.send(Dialer::new(&keys(2), hello, 0, [3; 32]).hello(), &[]).unwrap();
            liar.send(&[0; PROOF], &[]).unwrap();
            strangers.borrow_mut().extend([garbage, short, liar]);
        },
        &mpsc::channel().0,
    );
    assert_eq!(peers[0].links.peers.len(), 1);
    let liar = strangers.borrow_mut().pop().unwrap();
    let mut buf = [0; CHALLENGE];
    assert_eq!(liar.recv(&mut buf).unwrap().len, CHALLENGE, "the challenge is the only answer to a hello");
    assert_eq!(liar.recv(&mut buf).unwrap().len, 0, "then the connection is closed");
}

#[test]
fn a_leader_without_the_secret_is_not_trusted() {
    let listener = Listener::open().unwrap();
    let leader = *listener.name();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let keys = keys(2);
            let patience = Duration::from_millis(100);
            let connecting = Connecting { keys: &keys, rank: 0, host: 0..2, listener, leader, patience };
            let error = connecting.connect(|_, _| {}).unwrap_err();
            assert!(error.to_string().contains("process 1 of this host has not connected"), "{error}");
        });
        let (keys, listener) = (keys(1), Listener::open().unwrap());
        let connecting = Connecting { keys: &keys, rank: 1, host: 0..2, listener, leader, patience: PATIENCE };
        let error = connecting.connect(|_, _| {}).unwrap_err();
        assert!(error.to_string().contains("process 0, the first of this host, does not answer"), "{error}");
    });
}

#[test]
fn a_death_is_noticed_by_all_and_reported_by_one() {
    let (tell, gone) = mpsc::channel();
    let peers = meet(0, 3, |_| {}, &tell);
    shutdown(&peers[2].links.peers[0].channel, Shutdown::Both).unwrap();
    let heard: Vec<String> = (0..2).map(|_| gone.recv_timeout(PATIENCE).unwrap()).collect();
    assert!(heard.iter().any(|what| what.starts_with("process 2 of this host (pid ")), "{heard:?}");
    assert_eq!(peers.iter().filter(|one| one.links.may_report()).count(), 1);
}

#[test]
fn a_process_that_announces_its_exit_is_not_reported() {
    let (tell, gone) = mpsc::channel();
    let peers = meet(0, 3, |_| {}, &tell);
    peers[1].links.finish();
    peers[0].links.finish();
    peers.iter().flat_map(|one| &one.links.peers).for_each(|peer| _ = shutdown(&peer.channel, Shutdown::Both));
    drop(tell);
    assert!(gone.recv_timeout(PATIENCE).is_err_and(|why| why == mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn an_invalid_message_is_refused() {
    for word in [HostMessage::Bye, HostMessage::Fds { rank: 7, count: 253, more: true }] {
        let bytes = word.encode();
        assert!(bytes.len() <= MESSAGE_MAX && HostMessage::decode(&bytes) == Ok(word));
        assert!((0..bytes.len()).all(|len| HostMessage::decode(&bytes[..len]).is_err()));
        assert!(HostMessage::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
    assert!(HostMessage::decode(&[3]).is_err() && HostMessage::decode(&[1, 0, 0, 0, 0, 0, 0, 2]).is_err());
}
