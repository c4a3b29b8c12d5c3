//! The program that the tests of back-pressure start in jobs of all kinds: producers that run ahead of slow receivers. It prints the maximum growth
//! of each process in KiB.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it is a program, and what it prints is what the tests read")]

use std::time::{Duration, Instant};

use charm4rs::prelude::*;

/// Bytes of a large message.
const LARGE: usize = 100_000;

/// The maximum memory of this process so far, in KiB.
fn most() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What a producer sends.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum What {
    Small,
    Payload,
    Vector,
}

impl What {
    fn of(word: &str) -> Self {
        match word {
            "small" => Self::Small,
            "payload" => Self::Payload,
            "vector" => Self::Vector,
            other => panic!("{other:?} is not among what is sent"),
        }
    }
}

/// One on each PE. A call takes `pace_us` to run.
struct Node {
    pace: Duration,
    began: u64,
    taken: u64,
    /// Ends the job after this many calls.
    leaves_after: u64,
}

impl Node {
    fn take(&mut self, cx: &Cx<Self>) {
        let until = Instant::now() + self.pace;
        // Another process may need the core.
        while Instant::now() < until {
            std::thread::yield_now();
        }
        self.taken += 1;
        if self.taken == self.leaves_after {
            cx.job().exit(0);
        }
    }
}

#[chare(index = u32)]
impl Node {
    #[init]
    fn new(pace_us: u64) -> Self {
        Self { pace: Duration::from_micros(pace_us), began: most(), taken: 0, leaves_after: u64::MAX }
    }
    #[entry]
    fn small(&mut self, cx: &mut Cx<Self>, number: u64) {
        let _ = number;
        self.take(cx);
    }
    #[entry]
    fn payload(&mut self, cx: &mut Cx<Self>, bytes: Payload<u8>) {
        drop(bytes);
        self.take(cx);
    }
    #[entry]
    fn vector(&mut self, cx: &mut Cx<Self>, bytes: Vec<u8>) {
        drop(bytes);
        self.take(cx);
    }
    /// Sends without ever returning to the scheduler.
    #[entry]
    fn produce(&mut self, cx: &mut Cx<Self>, to: Pe, what: What, count: u64) {
        let node = cx.collection().at(to.0);
        for number in 0..count {
            match what {
                What::Small => drop(node.small(number)),
                What::Payload => drop(node.payload(vec![1; LARGE])),
                What::Vector => drop(node.vector(vec![1; LARGE])),
            }
        }
    }
    /// As [`Node::produce`], suspended while the receiver cannot take more.
    #[entry]
    async fn produce_suspended(this: This<Self>, to: u32, what: What, count: u64) {
        let node = this.collection().at(to);
        for number in 0..count {
            match what {
                What::Small => node.small(number).sent().await,
                What::Payload => node.payload(vec![1; LARGE]).sent().await,
                What::Vector => node.vector(vec![1; LARGE]).sent().await,
            }
        }
        this.with(|node| node.taken = u64::MAX);
    }
    #[entry]
    fn grown(&mut self) -> (u64, u64) {
        (self.taken, most() - self.began)
    }
    #[entry]
    fn reset(&mut self) {
        self.taken = 0;
    }
    #[entry]
    fn leave_after(&mut self, taken: u64) {
        self.leaves_after = taken;
    }
}

#[charm4rs::main]
async fn main(job: Job, args: Args) {
    let (who, what) = (args.get(1, String::new()), What::of(&args.get(2, String::new())));
    let (count, pace_us) = (args.get(3, 0), args.get(4, 0));
    let nodes = job.group::<Node>(pace_us);
    let last = Pe(job.pes() - 1);
    match &*who {
        // One producer, one receiver.
        "one" => nodes.on(Pe(0)).produce(last, what, count).done().await,
        // One producer that is suspended, while its PE answers calls.
        "suspended" => {
            let sent = nodes.on(Pe(0)).produce_suspended(last.0, what, count).done();
            let mut answered = 0;
            while nodes.on(Pe(0)).grown().await.0 == 0 {
                answered += 1;
            }
            sent.await;
            nodes.on(Pe(0)).reset().done().await;
            println!("PE 0 answered {} times", if answered > 10 { "many" } else { "few" });
        }
        // Each PE floods the next.
        "circle" => {
            let sent: Vec<_> = (0..job.pes())
                .map(|pe| nodes.on(Pe(pe)).produce(Pe((pe + 1) % job.pes()), what, count).done())
                .collect();
            for sent in sent {
                sent.await;
            }
        }
        // To all, through the tree.
        "all" => {
            for number in 0..count {
                match what {
                    What::Small => drop(nodes.all().small(number)),
                    What::Payload => drop(nodes.all().payload(vec![1; LARGE])),
                    What::Vector => drop(nodes.all().vector(vec![1; LARGE])),
                }
            }
        }
        // The receiver ends the job while its sender waits.
        "leave" => {
            drop(nodes.on(last).leave_after(2_000));
            nodes.on(Pe(0)).produce(last, what, count).done().await;
        }
        other => panic!("{other:?} is not a known sender"),
    }
    job.quiescence().await;
    for (pe, (taken, grown)) in nodes.all().grown().await.into_iter().enumerate() {
        println!("PE {pe} took {taken} and grew by {grown} KiB");
    }
}
