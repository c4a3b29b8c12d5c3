//! The program that the tests of faults start in jobs of all kinds: its first argument names a fault.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it is a program, and what it prints is what the tests read")]

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use charm4rs::PutHandle;
use charm4rs::prelude::*;
use charm4rs::reduce::Reducer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serializer;

/// The size of a payload that is too large.
const HUGE: usize = 512 << 20;

/// A number of the process's status, in KiB.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A value that fails when it is serialized, and, if armed, when it is dropped.
#[derive(Deserialize)]
struct Hostile {
    armed: bool,
}

impl Serialize for Hostile {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("on purpose")
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        assert!(!self.armed, "on purpose");
    }
}

/// A reduction that fails when it merges parts.
struct Breaks;

impl Reducer<u32> for Breaks {
    type Partial = u32;
    type Output = u32;
    fn start(&self, value: u32) -> u32 {
        value
    }
    fn merge(&self, _: u32, _: u32) -> u32 {
        panic!("on purpose")
    }
    fn finish(&self, partial: u32, _: u64) -> u32 {
        partial
    }
}

/// A thread that sleeps for this time, and a future that it completes.
fn outside(time: Duration) -> (JoinHandle<()>, impl Future<Output = ()>) {
    let shared = Arc::new(Mutex::new((false, None::<Waker>)));
    let theirs = shared.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(time);
        let mut shared = theirs.lock().expect("no thread panics");
        shared.0 = true;
        if let Some(waker) = shared.1.take() {
            waker.wake();
        }
    });
    let future = poll_fn(move |cx| {
        let mut shared = shared.lock().expect("no thread panics");
        shared.1 = Some(cx.waker().clone());
        if shared.0 { Poll::Ready(()) } else { Poll::Pending }
    });
    (thread, future)
}

struct Node;

#[chare(index = u32)]
impl Node {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn ready(&self) {
        println!("ready {}", std::process::id());
    }
    #[entry]
    fn fine(&self) -> u32 {
        1
    }
    #[entry]
    fn compute(&self, ms: u64) {
        let until = Instant::now() + Duration::from_millis(ms);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }
    /// Limits this process to `mib` more memory than it has now.
    #[entry]
    fn starve(&self, mib: u64) {
        let Rlimit { maximum, .. } = getrlimit(Resource::As);
        let limit = Rlimit { current: Some((status("VmSize") << 10) + (mib << 20)), maximum };
        setrlimit(Resource::As, limit).expect("a lower limit");
    }
    #[entry]
    fn spins(&self) {
        println!("spins");
        loop {
            std::hint::spin_loop();
        }
    }
    /// Waits for a call that is never made.
    #[entry]
    async fn waits(this: This<Self>) {
        this.next_go().await;
    }
    #[entry]
    fn go(&self);
    #[entry]
    fn panics(&self) {
        panic!("on purpose")
    }
    #[entry]
    fn exits(&self, cx: &mut Cx<Self>, code: u8) {
        cx.job().exit(code);
    }
    #[entry]
    fn gives_hostile(&self) -> Hostile {
        Hostile { armed: false }
    }
    #[entry]
    fn drops_hostile(&self, panics: bool) {
        let _hostile = Hostile { armed: true };
        assert!(!panics, "on purpose");
    }
    #[entry]
    fn reduces(&self, cx: &mut Cx<Self>) {
        drop(cx.allreduce(cx.index(), Breaks));
    }
    #[entry]
    fn length(&self, bytes: Payload<u8>) -> usize {
        bytes.len()
    }
    /// Returns the handle of a put window that is read after every put.
    #[entry]
    fn reads(&self, cx: &mut Cx<Self>) -> PutHandle<u8> {
        let (mut put_window, to) = cx.job().put_window(100_000);
        cx.spawn(async move {
            loop {
                assert_eq!(put_window.next().await[99_999], 1);
            }
        });
        to
    }
    #[entry]
    fn give(&self, len: usize) -> Payload<u8> {
        vec![0; len].into()
    }
}

#[charm4rs::main]
async fn main(job: Job, args: Args) {
    let nodes = job.group::<Node>(());
    let last = nodes.on(Pe(job.pes() - 1));
    nodes.created().await;
    match &*args.get(1, String::new()) {
        "ready" => {
            nodes.all().ready().done().await;
            job.promise::<()>().1.await;
        }
        // The CPUs of main, of a thread that it starts, and of one that is not pinned.
        "cpus" => {
            let cpus = || std::thread::available_parallelism().expect("it is known").get();
            let pinned = std::thread::spawn(cpus).join().expect("it counts");
            println!("{} {pinned} {}", cpus(), charm4rs::spawn_thread(cpus).join().expect("it counts"));
        }
        "ready-and-compute" => {
            nodes.all().ready().done().await;
            nodes.all().compute(1_000_000);
            job.promise::<()>().1.await;
        }
        // Repeated puts into memory of the last PE.
        "ready-and-put" => {
            nodes.all().ready().done().await;
            let mut to = last.reads().await;
            loop {
                to = to.put(vec![1u8; 100_000]).await;
            }
        }
        "ready-and-leave" => {
            nodes.all().ready().done().await;
            job.sleep(Duration::from_millis(args.get(2, 0))).await;
            nodes.all().fine().await;
            println!("left");
        }
        "endless-loop" => last.spins().done().await,
        "awaited-panic" => last.panics().await,
        "deadlock" => last.waits().done().await,
        "ready-and-deadlock" => {
            nodes.all().ready().done().await;
            last.waits().done().await;
        }
        "sleep" => {
            job.sleep(Duration::from_millis(args.get(2, 0))).await;
            println!("slept");
        }
        // A thread of the process works, and wakes a task when it is done.
        "thread" => {
            let (done, wait) = outside(Duration::from_millis(args.get(2, 0)));
            wait.await;
            done.join().expect("it sleeps and wakes");
            println!("woken");
        }
        "calls" => {
            let until = job.now() + Duration::from_millis(args.get(2, 0));
            while job.now() < until {
                last.compute(1).done().await;
            }
            println!("called");
        }
        // A fault on the last PE while another one computes.
        what @ ("panic"
        | "panic-in-reduction"
        | "panic-in-serialization"
        | "panic-in-destructor"
        | "double-panic"
        | "exit") => {
            println!("now");
            match what {
                "panic" => drop(last.panics()),
                "panic-in-reduction" => drop(nodes.all().reduces()),
                "panic-in-serialization" => {
                    job.spawn(async move { drop(last.gives_hostile().await) });
                }
                "panic-in-destructor" => drop(last.drops_hostile(false)),
                "double-panic" => drop(last.drops_hostile(true)),
                _ => drop(last.exits(42)),
            }
            // A PE that computes takes no part in an intended end of the job, nor in a reduction.
            if !matches!(what, "exit" | "panic-in-reduction") {
                nodes.on(Pe(1)).compute(1_000_000);
            }
            job.promise::<()>().1.await;
        }
        "compute" => {
            last.compute(args.get(2, 0)).done().await;
            println!("computed");
        }
        // Far more than may be in flight, to a PE that takes no messages for a while.
        "flood" => {
            drop(last.compute(args.get(2, 0)));
            for _ in 0..3_000 {
                drop(last.length(vec![0; 100_000]));
            }
            let most = status("VmHWM");
            job.quiescence().await;
            println!("{most}");
        }
        "too-large-to-take" => {
            last.starve(64).done().await;
            let error = last.length(vec![0; HUGE]).checked().await.expect_err("there is no memory");
            println!("{error}");
            println!("{}", last.length(vec![0; 100_000]).await);
        }
        "too-large-for-the-caller" => {
            nodes.on(Pe(0)).starve(64).done().await;
            let error = last.give(HUGE).checked().await.expect_err("there is no memory");
            println!("{error}");
            println!("{}", last.give(100_000).await.len());
        }
        "too-large-for-nobody" => {
            last.starve(64).done().await;
            drop(last.length(vec![0; HUGE]));
            job.quiescence().await;
        }
        "too-long" => {
            let error = last.length(vec![0; 2 << 20]).checked().await.expect_err("it is too long");
            println!("{error}");
            let error = last.give(2 << 20).checked().await.expect_err("it is too long");
            println!("{error}");
            println!("{}", last.length(vec![0; 1_000_000]).await);
        }
        what => panic!("{what:?} is not among what can go wrong"),
    }
}
