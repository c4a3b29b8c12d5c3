//! Fibonacci numbers with futures: each chare creates two others, and awaits their answers.
//!
//! `cargo charmrun +p4 fib 30 --cutoff 12`
//!
//! Not a good way to compute them, but a good measure of the cost of a chare: creation, a call, the suspension of its caller, the answer,
//! destruction. Below the cutoff a chare computes alone: this is a program's *grain*.

use charm4rs::prelude::*;

/// Fibonacci numbers, a chare for each call above the cutoff.
#[derive(clap::Parser)]
struct Options {
    /// The index of the Fibonacci number.
    #[arg(default_value_t = 27, value_parser = clap::value_parser!(u32).range(..=90))]
    n: u32,
    /// Below this a chare creates no others.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..))]
    cutoff: u32,
}

/// A chare's answer: the number, and how many chares it took.
type Answer = (u64, u64);

struct Fib;

#[chare]
impl Fib {
    #[init]
    fn new() -> Self {
        Self
    }

    /// Computes the `n`th number, and ends.
    #[entry]
    async fn compute(this: This<Self>, n: u32, cutoff: u32) -> Answer {
        let answer = if n < cutoff {
            (serial(n), 1)
        } else {
            // Both calls are in flight before the first is awaited.
            let [left, right] = [n - 1, n - 2].map(|n| this.job().single::<Self>(()).compute(n, cutoff).call());
            let (left, right) = (left.await, right.await);
            (left.0 + right.0, left.1 + right.1 + 1)
        };
        this.destroy();
        answer
    }
}

fn serial(n: u32) -> u64 {
    if n < 2 { u64::from(n) } else { serial(n - 1) + serial(n - 2) }
}

#[charm4rs::main]
async fn main(job: Job, options: Options) {
    let Options { n, cutoff } = options;
    let began = job.now();
    let (number, chares) = job.single::<Fib>(()).compute(n, cutoff).await;
    let time = job.now() - began;
    println!("fib({n}) = {number}");
    println!("{chares} chares in {time:.1?}: {:.0} a second", chares as f64 / time.as_secs_f64());
    let expected = (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0;
    if number != expected {
        job.abort(&format!("fib({n}) is {expected}"));
    }
}
