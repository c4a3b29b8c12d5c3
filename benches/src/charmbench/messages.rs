//! The number of messages of operations of all PEs: counted in simulations of far more PEs than a machine has cores. Nothing is timed.
//!
//! Each message takes the same time, and PEs take no time, so the time of an operation is its longest chain of messages.

use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::testing::{SimOptions, simulate};

use crate::table::text;

/// How long a message takes.
const DELAY: Duration = Duration::from_micros(1);
/// The limit that the memory of most machines allows.
const PES_MAX: u32 = 4096;
/// The numbers of operations in two simulations; the difference counts.
const COUNTS: [u32; 2] = [4, 12];

/// One on each PE.
struct Member;

#[chare(index = u32)]
impl Member {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn hear(&mut self) {}
    #[entry]
    fn give(&mut self, cx: &mut Cx<Self>, to: Promise<u64>) {
        cx.contribute(1u64, reduce::sum, to);
    }
    #[entry]
    async fn allreduces(this: This<Self>, count: u32) {
        for _ in 0..count {
            assert_eq!(this.allreduce(1u64, reduce::sum).await, u64::from(this.job().pes()));
        }
    }
    #[entry]
    async fn barriers(this: This<Self>, count: u32) {
        for _ in 0..count {
            this.allreduce((), reduce::barrier).await;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Broadcast,
    Reduction,
    Allreduce,
    Barrier,
    Quiescence,
    /// While calls of all elements are in flight.
    QuiescenceOfWork,
}

const OPERATIONS: [(Operation, &str); 6] = [
    (Operation::Broadcast, "broadcast, and its completion"),
    (Operation::Reduction, "broadcast and reduction"),
    (Operation::Allreduce, "allreduce"),
    (Operation::Barrier, "barrier"),
    (Operation::Quiescence, "quiescence of an idle job"),
    (Operation::QuiescenceOfWork, "broadcast, and quiescence"),
];

async fn perform(job: Job, members: Group<Member>, what: Operation, count: u32) {
    match what {
        Operation::Allreduce => return members.all().allreduces(count).done().await,
        Operation::Barrier => return members.all().barriers(count).done().await,
        _ => {}
    }
    for _ in 0..count {
        match what {
            Operation::Broadcast => members.all().hear().done().await,
            Operation::Quiescence => job.quiescence().await,
            Operation::QuiescenceOfWork => {
                members.all().hear();
                job.quiescence().await;
            }
            _ => {
                let (to, sum) = job.promise();
                members.all().give(to);
                assert_eq!(sum.await, u64::from(job.pes()));
            }
        }
    }
}

/// Messages of one operation.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Cost {
    messages: f64,
    /// The longest chain of messages that wait for one another.
    chain: f64,
}

fn cost(what: Operation, pes: u32) -> Cost {
    let options = SimOptions { delay: Some(DELAY), ..SimOptions::new(pes, 1) };
    let [fewer, more] = COUNTS.map(|count| {
        let outcome = simulate(&options, move |job| async move {
            let members = job.group::<Member>(());
            members.created().await;
            perform(job, members, what, count).await;
        });
        outcome.unwrap();
        (outcome.messages as f64, outcome.time.as_nanos() as f64)
    });
    let each = |more: f64, fewer: f64| (more - fewer) / f64::from(COUNTS[1] - COUNTS[0]);
    Cost { messages: each(more.0, fewer.0), chain: each(more.1, fewer.1) / DELAY.as_nanos() as f64 }
}

/// Prints the messages for these numbers of PEs.
///
/// # Errors
/// If a number of PEs cannot be simulated.
pub(crate) fn run(pes: &[u32]) -> Result<(), String> {
    if let Some(pes) = pes.iter().find(|pes| !(1..=PES_MAX).contains(*pes)) {
        return Err(format!("{pes} PEs cannot be simulated: between 1 and {PES_MAX}"));
    }
    println!(
        "\n{:<34} {:>8} {:>12} {:>12} {:>14}",
        "messages of an operation", "PEs", "messages", "for each PE", "longest chain"
    );
    for (what, name) in OPERATIONS {
        for &pes in pes {
            let Cost { messages, chain } = cost(what, pes);
            let [messages, each, chain] = [messages, messages / f64::from(pes), chain].map(text);
            println!("{name:<34} {pes:>8} {messages:>12} {each:>12} {chain:>14}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PES: [u32; 9] = [2, 3, 4, 8, 16, 32, 33, 256, 1024];

    /// The distance of the farthest PE from the root of a tree in which each PE has four children.
    fn depth(pes: u32) -> u32 {
        (0..).find(|depth| (4u32.pow(depth + 1) - 1) / 3 >= pes).unwrap()
    }

    fn check(what: Operation, pes: u32, messages: u32, chain: u32) {
        let expected = Cost { messages: f64::from(messages), chain: f64::from(chain) };
        assert_eq!(cost(what, pes), expected, "{what:?} on {pes} PEs");
    }

    #[test]
    fn a_tree_takes_a_message_down_and_one_up_for_each_pe_but_its_root() {
        for pes in PES {
            for what in [Operation::Broadcast, Operation::Reduction] {
                check(what, pes, 2 * (pes - 1), 2 * depth(pes));
            }
        }
    }

    #[test]
    fn on_up_to_32_pes_of_a_host_all_send_in_each_of_few_steps_and_on_more_a_tree_is_used() {
        let steps = [(2, 1), (3, 1), (4, 2), (8, 3), (16, 4), (32, 5)];
        for what in [Operation::Allreduce, Operation::Barrier] {
            for (pes, chain) in steps {
                let a_step = if pes == 3 { 2 } else { 1 };
                check(what, pes, pes * chain * a_step, chain);
            }
            for pes in [33, 256, 1024] {
                check(what, pes, 2 * (pes - 1), 2 * depth(pes));
            }
        }
    }

    #[test]
    fn quiescence_takes_two_waves_of_which_the_first_may_be_the_last_of_the_question_before() {
        for pes in PES {
            check(Operation::Quiescence, pes, 2 * (pes - 1), 2 * depth(pes));
            check(Operation::QuiescenceOfWork, pes, (1 + 4) * (pes - 1), 4 * depth(pes));
        }
    }
}
