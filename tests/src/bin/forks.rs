//! A program whose chares have child processes, which end in every way: the tests check that the job is not affected.

#![allow(clippy::print_stdout, reason = "it is a program, and what it prints is what the tests read")]

use std::process::{Command, Stdio};

use charm4rs::prelude::*;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

struct Node;

#[chare(index = u32)]
impl Node {
    #[init]
    fn new() -> Self {
        Self
    }

    #[entry]
    fn fine(&self) -> u32 {
        1
    }

    /// Forks. The child does what `how` says; the parent waits for its end, and returns its status.
    #[entry]
    fn forks(&self, cx: &mut Cx<Self>, how: String) -> i32 {
        // SAFETY: the child only does what the test is about; `fork` makes the allocator usable in it.
        let pid = unsafe { libc::fork() };
        let Some(child) = Pid::from_raw(pid) else { return child_does(cx, &how) };
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).expect("our child").expect("it has ended");
        status.exit_status().unwrap_or_else(|| -status.terminating_signal().expect("it was killed"))
    }

    /// Runs a command to its end, and returns its output.
    #[entry]
    fn runs(&self, words: Vec<String>) -> String {
        let (program, args) = words.split_first().expect("a program");
        let output = Command::new(program).args(args).stdin(Stdio::null()).output().expect("it can be started");
        format!("{} {}", output.status, String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>().join(" "))
    }
}

fn child_does(cx: &mut Cx<Node>, how: &str) -> i32 {
    let signal = |signal| _ = kill_process(rustix::process::getpid(), signal);
    match how {
        "returns" => {}
        "ends the job" => cx.job().exit(3),
        "exits" => std::process::exit(4),
        "panics" => panic!("on purpose"),
        "aborts the job" => cx.job().abort("on purpose"),
        "aborts" => std::process::abort(),
        "is terminated" => signal(Signal::TERM),
        "is killed" => signal(Signal::KILL),
        how => panic!("{how:?} is not a known way to end"),
    }
    0
}

#[charm4rs::main]
async fn main(job: Job, args: Args) {
    let nodes = job.group::<Node>(());
    let last = nodes.on(Pe(job.pes() - 1));
    for how in ["returns", "ends the job", "exits", "panics", "aborts the job", "aborts", "is terminated", "is killed"]
    {
        let status = last.forks(how.to_owned()).await;
        nodes.all().fine().await;
        println!("{how}: {status}");
    }
    // A job within the job, and a chare program without a launcher.
    let own = std::env::current_exe().expect("proc").display().to_string();
    let inner = match &*args.get(1, String::new()) {
        "" => return println!("inner"),
        charmrun => [charmrun, "+p2", "++ppn", "1", &own].map(str::to_owned).to_vec(),
    };
    for words in [inner, vec![own]] {
        println!("{}", last.runs(words).await.replace(": ", "="));
    }
    nodes.all().fine().await;
    println!("fine");
}
