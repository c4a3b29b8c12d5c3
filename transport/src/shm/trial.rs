//! Tests of `shm` in its own setting: with segments that each "process" maps for itself, and between two real processes.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ShmFabric;
use super::pair::Pair;
use charm4rs_bootstrap::Threads;
use charm4rs_bootstrap::channel::Channel;
use charm4rs_transport_core::{
    Doorbell, Endpoint, Event, Fabric as _, Imm, Layout, Msg, OpId, Pe, PostError, RegBuf, RemoteKey,
};
use charm4rs_transport_testkit::conformance::{Death, Group, Harness, Watchdog, bytes};

struct Shm {
    ppn: u32,
    ring_bytes: usize,
}

impl Harness for Shm {
    fn group(&self, pes: u32) -> Group {
        let layout = Layout::one_host(pes, self.ppn);
        let fabrics = Threads::open_all(&layout, |process| ShmFabric::open(process, self.ring_bytes));
        let builders = (0..pes).map(|pe| fabrics[layout.process_of(Pe(pe)) as usize].builder(Pe(pe))).collect();
        Group::Threads { builders, death: Death::Drop, keep: Box::new(fabrics) }
    }
}

charm4rs_transport_testkit::conformance!(separate_mappings, Shm { ppn: 1, ring_bytes: 256 << 10 });
charm4rs_transport_testkit::conformance!(separate_mappings_of_two_pes_each, Shm { ppn: 2, ring_bytes: 64 << 10 });

/// What the parent asks the child to do, as the immediate of a message.
const ECHO: Imm = Imm(1);
const PUT: Imm = Imm(2);
const GET: Imm = Imm(3);
const QUIT: Imm = Imm(4);

/// The environment variable that makes the test program the child.
const CHILD: &str = "CHARM4RS_TEST_CHILD";

/// An endpoint that sleeps when it has nothing to do.
struct End {
    end: Box<dyn Endpoint>,
    doorbell: Doorbell,
    inbox: VecDeque<(Imm, Msg)>,
    announced: VecDeque<Imm>,
    got: VecDeque<RegBuf>,
}

impl End {
    fn open(rank: u32, channel: Channel) -> Self {
        let fabric = ShmFabric::open(&mut Pair::new(rank, channel), 256 << 10).unwrap();
        let doorbell = Doorbell::new().unwrap();
        let end = fabric.builder(Pe(rank)).build(&doorbell).unwrap();
        Self { end, doorbell, inbox: VecDeque::new(), announced: VecDeque::new(), got: VecDeque::new() }
    }

    fn progress(&mut self) -> usize {
        let mut events = Vec::new();
        let count = self.end.progress(&mut events, 16).unwrap();
        for event in events {
            match event {
                Event::Recv { imm, msg, .. } => self.inbox.push_back((imm, msg)),
                Event::PutArrived { imm, .. } => self.announced.push_back(imm),
                Event::Got { buf, .. } => self.got.push_back(buf),
                Event::Sent { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        count
    }

    /// Sleeps until `ready` returns a value.
    fn until<R>(&mut self, ready: impl Fn(&mut Self) -> Option<R>) -> R {
        loop {
            if let Some(value) = ready(self) {
                return value;
            }
            if self.progress() > 0 || !self.end.arm() {
                continue;
            }
            let limit = Timespec::try_from(Duration::from_secs(20)).unwrap();
            let (bell, fd) = (self.doorbell.fd(), self.end.wait_fd());
            let fds = [Some(bell), fd];
            let mut fds: Vec<PollFd<'_>> = fds.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            assert_ne!(poll(&mut fds, Some(&limit)).unwrap(), 0, "a wake-up was lost");
            self.doorbell.clear();
        }
    }

    fn recv(&mut self) -> (Imm, Msg) {
        self.until(|end| end.inbox.pop_front())
    }

    fn send(&mut self, imm: Imm, mut buf: RegBuf) {
        let to = Pe(1 - self.end.pe().0);
        while let Err(refusal) = self.end.send(to, imm, buf, OpId(0)) {
            let PostError::Busy(back) = refusal else { panic!("{refusal:?}") };
            buf = back;
            self.progress();
        }
    }

    fn send_bytes(&mut self, imm: Imm, bytes: &[u8]) {
        self.send(imm, RegBuf::copy_of(bytes));
    }
}

fn encode(key: &RemoteKey) -> Vec<u8> {
    [&key.len.to_le_bytes(), &*key.bytes].concat()
}

fn decode(bytes: &[u8]) -> RemoteKey {
    let (len, bytes) = bytes.split_first_chunk().unwrap();
    RemoteKey { len: u64::from_le_bytes(*len), bytes: bytes.into() }
}

/// The child: does what the parent asks.
#[test]
#[ignore = "the test with two processes starts it"]
fn the_other_process() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let _watchdog = Watchdog::start("the child");
    let socket: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut end = End::open(1, Channel::from(socket));
    loop {
        let (imm, msg) = end.recv();
        match imm {
            // A buffer of the parent's pool goes back as it came.
            ECHO => end.send(ECHO, msg.into_buf()),
            PUT => {
                let key = decode(&msg);
                let mut src = RegBuf::heap(usize::try_from(key.len).unwrap());
                bytes::pour(key.len, &mut src);
                assert!(end.end.put(Pe(0), src, &key, 0, Some(PUT), OpId(1)).is_ok());
            }
            GET => {
                let key = decode(&msg);
                let dst = RegBuf::heap(usize::try_from(key.len).unwrap());
                assert!(end.end.get(Pe(0), &key, 0, dst, OpId(2)).is_ok());
                let got = end.until(|end| end.got.pop_front());
                end.send(GET, got);
            }
            _ => break,
        }
    }
    end.end.close().unwrap();
}

/// Starts the child.
fn child() -> (std::process::Child, End) {
    let (ours, theirs) = Channel::pair().unwrap();
    let socket = theirs.as_fd().try_clone_to_owned().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shm::trial::the_other_process", "--ignored", "--test-threads", "1"])
        .env(CHILD, "1")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (child, End::open(0, ours))
}

#[test]
fn two_processes_hand_buffers_over_and_back_and_reach_each_others_windows() {
    let _watchdog = Watchdog::start("two processes");
    let (mut child, mut end) = child();
    for (len, round) in [0, 1, 100, 1_000, 5_000, 70_000, 1_000_000].into_iter().cycle().zip(0..700) {
        let mut buf = end.end.alloc(len).unwrap_or_else(|| RegBuf::heap(len));
        bytes::pour(round, &mut buf);
        end.send(ECHO, buf);
        let (imm, msg) = end.recv();
        assert_eq!((imm, msg.len()), (ECHO, len));
        bytes::expect(round, &msg, "an echo");
    }
    for len in [64, 5_000, 300_000] {
        let pooled = end.end.alloc(len).unwrap();
        for buf in [pooled, RegBuf::heap(len)] {
            // If the kernel does not let processes access each other, memory outside the pools cannot be exposed.
            let Ok(window) = end.end.expose(buf) else { continue };
            end.send_bytes(PUT, &encode(&window.key));
            assert_eq!(end.until(|end| end.announced.pop_front()), PUT);
            end.send_bytes(GET, &encode(&window.key));
            let (imm, got) = end.recv();
            assert_eq!(imm, GET);
            bytes::expect(len as u64, &got, "what the child read");
            bytes::expect(len as u64, &end.end.unexpose(window), "what the child put");
        }
    }
    end.send_bytes(QUIT, &[]);
    assert!(child.wait().unwrap().success());
    end.end.close().unwrap();
}

#[test]
fn a_killed_process_does_not_disturb_the_other() {
    let _watchdog = Watchdog::start("a killed process");
    let (mut child, mut end) = child();
    end.send_bytes(ECHO, b"are you there?");
    assert_eq!(&*end.recv().1, b"are you there?");
    child.kill().unwrap();
    child.wait().unwrap();
    // Any answer is right, as long as there is one at once.
    for _ in 0..10_000 {
        let buf = end.end.alloc(4_096).unwrap_or_else(|| RegBuf::heap(4_096));
        if !matches!(end.end.send(Pe(1), ECHO, buf, OpId(0)), Ok(_) | Err(PostError::Busy(_) | PostError::PeerDown(..)))
        {
            panic!("a send to a dead process was refused for another reason");
        }
        end.progress();
    }
    drop(end);
}
