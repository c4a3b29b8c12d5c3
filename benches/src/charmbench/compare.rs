//! Whether a second run is slower than a first, apart from noise: `charmbench compare A.json B.json`, a gate against regressions.
//!
//! Each row's runs are compared by the rank test of Mann and Whitney (Annals of Mathematical Statistics 18, 1947; the distribution of its statistic
//! is counted exactly, since there are few runs). A row is *slower* or *faster* if its medians differ by more than the threshold, and if without a
//! difference such ranks would occur by chance in less than one of 100 cases. With fewer than five runs on each side no ranks are that rare: then the
//! ranges must not overlap.

use std::path::PathBuf;

use clap::Args;

use crate::run::{Record, Run};
use crate::table::text;

#[derive(Args, Clone, PartialEq)]
pub(crate) struct Compare {
    /// The earlier run: a file that --json has written.
    before: PathBuf,
    /// The later run.
    after: PathBuf,
    /// Smaller changes of the median are ignored, in percent.
    #[arg(long, default_value_t = 5.0)]
    threshold: f64,
}

/// The probability of a result by chance must be below this.
const CHANCE: f64 = 0.01;
const RUNS_MIN: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Same,
    Faster,
    Slower,
}

/// Prints the comparison.
///
/// # Errors
/// If anything is slower, a file cannot be read, or the two have nothing in common.
pub(crate) fn run(what: &Compare) -> Result<(), String> {
    let (before, after) = (Run::read(&what.before)?, Run::read(&what.after)?);
    if before.machine.processor != after.machine.processor || before.machine.cores != after.machine.cores {
        println!("the machines differ: {} and {}", before.machine.processor, after.machine.processor);
    }
    let pairs: Vec<(&Record, &Record)> = before.records.iter().filter_map(|a| Some((a, same(a, &after)?))).collect();
    if pairs.is_empty() {
        return Err("the two runs have no row in common".to_owned());
    }
    println!("{:<72} {:>12} {:>12} {:>8}", "", "before", "after", "change");
    let mut slower = 0;
    for (a, b) in &pairs {
        let change = b.figure().median() / a.figure().median() - 1.0;
        let verdict = verdict(a, b, what.threshold / 100.0);
        let word = match verdict {
            Verdict::Same => "",
            Verdict::Faster => "faster",
            Verdict::Slower => "SLOWER",
        };
        slower += usize::from(verdict == Verdict::Slower);
        let (before, after) = (text(a.figure().median()), text(b.figure().median()));
        println!("{:<72} {before:>12} {after:>12} {:>+7.1}% {word}", a.title(), change * 100.0);
    }
    println!("{} rows in both runs, {slower} slower", pairs.len());
    if slower == 0 { Ok(()) } else { Err(format!("{slower} of {} rows are slower than before", pairs.len())) }
}

/// The same row in another run.
fn same<'a>(record: &Record, run: &'a Run) -> Option<&'a Record> {
    run.records.iter().find(|other| other.title() == record.title() && other.unit == record.unit)
}

fn verdict(before: &Record, after: &Record, threshold: f64) -> Verdict {
    let (a, b) = (before.figure(), after.figure());
    let ratio = b.median() / a.median();
    if (ratio - 1.0).abs() <= threshold {
        return Verdict::Same;
    }
    let apart = if a.runs().len().min(b.runs().len()) < RUNS_MIN {
        a.max() < b.min() || b.max() < a.min()
    } else {
        chance(a.runs(), b.runs()) < CHANCE
    };
    match apart {
        false => Verdict::Same,
        true if (ratio > 1.0) == before.is_rate() => Verdict::Faster,
        true => Verdict::Slower,
    }
}

/// The probability of ranks at least as one-sided as these, on either side, if both come from the same distribution.
fn chance(a: &[f64], b: &[f64]) -> f64 {
    let wins: f64 = a
        .iter()
        .flat_map(|a| {
            b.iter().map(move |b| {
                if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                }
            })
        })
        .sum();
    let pairs = a.len() * b.len();
    let rare = wins.min(pairs as f64 - wins).floor() as usize;
    let ways = ways(a.len(), b.len());
    let all: f64 = ways.iter().sum();
    (2.0 * ways[..=rare].iter().sum::<f64>() / all).min(1.0)
}

/// The number of orders of `m` and `n` items with exactly this many inversions, by the number of inversions.
fn ways(m: usize, n: usize) -> Vec<f64> {
    // Gauss's binomial coefficient: multiplied by (1 - x^(n+i)) and divided by (1 - x^i), for each i up to m.
    let mut ways = vec![0.0; m * n + 1];
    ways[0] = 1.0;
    for i in 1..=m {
        for at in (n + i..ways.len()).rev() {
            ways[at] -= ways[at - n - i];
        }
        for at in i..ways.len() {
            ways[at] += ways[at - i];
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(unit: &str, runs: impl IntoIterator<Item = f64>) -> Record {
        Record {
            table: "t".into(),
            name: "n".into(),
            bytes: None,
            unit: unit.into(),
            runs: runs.into_iter().collect(),
            tail: None,
            limit: None,
            limit_name: None,
        }
    }

    #[test]
    fn the_orders_of_a_few_things_are_counted_right() {
        assert_eq!(ways(2, 2), [1.0, 1.0, 2.0, 1.0, 1.0]);
        assert_eq!(ways(3, 1), [1.0; 4]);
        // From the table of Mann and Whitney's paper, n = m = 5: U <= 1 has the probability 0.008.
        let all: f64 = ways(5, 5).iter().sum();
        assert_eq!((all, ways(5, 5)[..=1].iter().sum::<f64>()), (252.0, 2.0));
    }

    #[test]
    fn what_differs_by_more_than_noise_is_found_and_noise_is_not() {
        let at = |middle: f64| record("ns", (0..9).map(move |i| middle + f64::from(i)));
        assert_eq!(verdict(&at(100.0), &at(112.0), 0.05), Verdict::Slower);
        assert_eq!(verdict(&at(112.0), &at(100.0), 0.05), Verdict::Faster);
        assert_eq!(verdict(&at(100.0), &at(103.0), 0.05), Verdict::Same, "below the threshold");
        let noisy = record("ns", [90.0, 100.0, 110.0, 120.0, 150.0, 95.0, 200.0, 101.0, 99.0]);
        let other = record("ns", [95.0, 91.0, 118.0, 112.0, 180.0, 113.0, 125.0, 111.0, 130.0]);
        assert_eq!(verdict(&noisy, &other, 0.05), Verdict::Same, "medians of 101 and 113, but ranges alike");
        let rate = |middle: f64| record("GB/s", (0..9).map(move |i| middle + f64::from(i) / 100.0));
        assert_eq!(verdict(&rate(10.0), &rate(8.0), 0.05), Verdict::Slower, "of a rate, less is worse");
    }

    #[test]
    fn few_runs_must_be_wholly_apart() {
        let runs = |runs: [f64; 3]| record("ns", runs);
        assert_eq!(verdict(&runs([1.0, 1.1, 1.2]), &runs([1.3, 1.4, 1.5]), 0.05), Verdict::Slower);
        assert_eq!(verdict(&runs([1.0, 1.1, 1.35]), &runs([1.3, 1.4, 1.5]), 0.05), Verdict::Same);
    }
}
