//! The paths of small messages, for counting instructions: `paths PATH` runs one of them ten thousand times in [`measured`], which `ci/instructions`
//! observes with a simulated processor. Counts do not depend on the load of the machine.
//!
//! All PEs are on this thread and take turns, so a count includes both ends of a message. Operations go in bursts, so that polls without work
//! contribute little.

use std::hint::black_box;

use charm4rs::prelude::*;
use charm4rs::testing::{LockstepJob, over_the_wire};

/// Operations of a burst, all in flight at once.
const BURST: u64 = 100;
/// Bursts of one measurement.
const BURSTS: u64 = 100;
/// Bursts before the measurement, so that memory is allocated.
const BEFORE: u64 = 4;

/// One on each PE.
struct Member(u64);

#[chare(index = u32)]
impl Member {
    #[init]
    fn new() -> Self {
        Self(0)
    }

    #[entry]
    fn add(&mut self, by: u64) {
        self.0 = self.0.wrapping_add(by);
    }

    #[entry]
    fn get(&mut self) -> u64 {
        self.0
    }

    #[entry]
    fn reduce(&mut self, cx: &mut Cx<Self>, to: Promise<u64>) {
        cx.contribute(1u64, reduce::sum, to);
    }

    /// Begins all of them, and then waits for each.
    #[entry]
    async fn allreduces(this: This<Self>, count: u64) {
        let sums: Vec<_> = (0..count).map(|by| this.allreduce(by, reduce::sum)).collect();
        for sum in sums {
            black_box(sum.await);
        }
    }
}

/// An element that does nothing.
struct Dust;

#[chare(index = u64)]
impl Dust {
    #[init]
    fn new() -> Self {
        Self
    }
}

type Setup = fn() -> LockstepJob;

fn one() -> LockstepJob {
    LockstepJob::threads(1).expect("memory")
}

fn threads() -> LockstepJob {
    LockstepJob::threads(2).expect("memory")
}

/// A path: its name, the job, and a burst of it.
type Path = (&'static str, Setup, fn(&LockstepJob, &Group<Member>));

const PATHS: [Path; 7] = [
    ("call-itself", one, |job, members| call(job, members.on(Pe(0)))),
    ("call-thread", threads, |job, members| call(job, members.on(Pe(1)))),
    ("reply-thread", threads, reply),
    ("reduction-threads", threads, reduction),
    ("allreduce-threads", threads, |job, members| {
        job.on(Pe(0), |_| drop(members.all().allreduces(BURST)));
        settle(job);
    }),
    ("element-made", one, |job, _| {
        let _ = black_box(job.on(Pe(0), |job| job.array::<Dust>(BURST, ())));
        settle(job);
    }),
    ("packed-and-unpacked", one, |_, _| {
        (0..BURST).for_each(|at| drop(over_the_wire(black_box(&(7u32, at, "a name".to_owned())))));
    }),
];

fn call(job: &LockstepJob, member: Proxy<Member>) {
    job.on(Pe(0), |_| calls(&member));
    settle(job);
}

/// A function of its own, so that inlining does not depend on the surrounding code.
#[inline(never)]
fn calls(member: &Proxy<Member>) {
    (0..BURST).for_each(|by| drop(member.add(by)));
}

fn reply(job: &LockstepJob, members: &Group<Member>) {
    let replies: Vec<_> = job.on(Pe(0), |_| (0..BURST).map(|_| members.on(Pe(1)).get().call()).collect());
    settle(job);
    job.on(Pe(0), |_| drop(replies));
}

fn reduction(job: &LockstepJob, members: &Group<Member>) {
    let sums: Vec<_> = job.on(Pe(0), |job| {
        let one = |_| {
            let (to, sum) = job.promise::<u64>();
            drop(members.all().reduce(to));
            sum
        };
        (0..BURST).map(one).collect()
    });
    settle(job);
    job.on(Pe(0), |_| drop(sums));
}

fn settle(job: &LockstepJob) {
    job.settle().expect("nothing fails");
}

/// The measured code.
#[inline(never)]
fn measured(job: &LockstepJob, members: &Group<Member>, path: fn(&LockstepJob, &Group<Member>)) {
    (0..BURSTS).for_each(|_| path(job, members));
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == "--list" {
        PATHS.iter().for_each(|(name, ..)| println!("{name}"));
        return;
    }
    let Some((_, setup, path)) = PATHS.iter().find(|(known, ..)| *known == name) else {
        eprintln!("paths: there is no path {name:?}; paths --list prints the paths");
        std::process::exit(64);
    };
    let job = setup();
    let members = job.on(Pe(0), |job| job.group::<Member>(()));
    settle(&job);
    (0..BEFORE).for_each(|_| path(&job, &members));
    measured(&job, &members, *path);
}
