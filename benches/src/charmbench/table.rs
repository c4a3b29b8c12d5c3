//! Figures, and the tables in which they are printed; every row is also a record of the run ([`crate::run`]).

use std::ops::RangeInclusive;
use std::time::Instant;

use crate::progress::Progress;
use crate::run::{self, Record};

/// Several measurements of one thing.
#[derive(Clone)]
pub(crate) struct Figure {
    /// In ascending order.
    runs: Vec<f64>,
    tail: Option<Tail>,
}

/// How far single operations are from the median: the times that 99 of 100 do not exceed, and 999 of 1,000.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Tail {
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Tail {
    /// From the times of single operations.
    pub(crate) fn of(mut times: Vec<f64>) -> Option<Self> {
        times.sort_by(f64::total_cmp);
        let at =
            |part: f64| times.get(((times.len() as f64 * part) as usize).min(times.len().checked_sub(1)?)).copied();
        Some(Self { p99: at(0.99)?, p999: at(0.999)? })
    }
}

impl Figure {
    pub(crate) fn of(mut runs: Vec<f64>) -> Self {
        runs.sort_by(f64::total_cmp);
        Self { runs, tail: None }
    }

    pub(crate) fn with_tail(self, tail: Option<Tail>) -> Self {
        Self { tail, ..self }
    }

    pub(crate) fn min(&self) -> f64 {
        self.runs.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.runs.get(self.runs.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn max(&self) -> f64 {
        self.runs.last().copied().unwrap_or(f64::NAN)
    }

    /// From the nanoseconds that `bytes` take: GB/s.
    pub(crate) fn speed(self, bytes: usize) -> Self {
        Self::of(self.runs.into_iter().map(|ns| bytes as f64 / ns).collect())
    }

    pub(crate) fn runs(&self) -> &[f64] {
        &self.runs
    }

    pub(crate) fn tail(&self) -> Option<Tail> {
        self.tail
    }
}

/// Measures a figure and its limit, if there is one, in turn: nanoseconds.
pub(crate) fn in_turn<E>(
    runs: usize,
    limit: Option<&dyn Fn() -> f64>,
    mut ours: impl FnMut() -> Result<f64, E>,
) -> Result<(Figure, Option<Figure>), E> {
    let (mut all, mut limits, progress) = (Vec::new(), Vec::new(), Progress::of(runs));
    for _ in 0..runs {
        limits.extend(limit.map(|limit| limit()));
        all.push(ours()?);
        progress.step();
    }
    Ok((Figure::of(all), (!limits.is_empty()).then(|| Figure::of(limits))))
}

/// The number of repetitions of an operation that moves `each` bytes, for about `total` bytes: within these limits.
pub(crate) fn times(total: usize, each: usize, limits: RangeInclusive<u32>) -> u32 {
    u32::try_from(total / each.max(1)).unwrap_or(u32::MAX).clamp(*limits.start(), *limits.end())
}

/// Measures an operation of the object model, in turn with its limit, if there is one; nanoseconds for each of `count` operations. It is executed
/// once before.
pub(crate) async fn each_of<F: Future<Output = ()>>(
    runs: usize,
    count: u32,
    limit: Option<&dyn Fn() -> f64>,
    what: impl Fn() -> F,
) -> (Figure, Option<Figure>) {
    timed(runs, limit, || async {
        let start = Instant::now();
        what().await;
        start.elapsed().as_nanos() as f64 / f64::from(count)
    })
    .await
}

/// The same, for an operation that returns its own duration.
pub(crate) async fn timed<F: Future<Output = f64>>(
    runs: usize,
    limit: Option<&dyn Fn() -> f64>,
    what: impl Fn() -> F,
) -> (Figure, Option<Figure>) {
    what().await;
    let (mut times, mut limits, progress) = (Vec::new(), Vec::new(), Progress::of(runs));
    for _ in 0..runs {
        limits.extend(limit.map(|limit| limit()));
        times.push(what().await);
        progress.step();
    }
    (Figure::of(times), (!limits.is_empty()).then(|| Figure::of(limits)))
}

/// A table that is being printed.
pub(crate) struct Table {
    title: String,
    unit: &'static str,
    limit: Option<&'static str>,
    tails: bool,
}

impl Table {
    /// Prints its head.
    pub(crate) fn new(title: impl Into<String>, unit: &'static str) -> Self {
        Self::beside(title, unit, None)
    }

    /// With a column for a limit, if there is one.
    pub(crate) fn beside(title: impl Into<String>, unit: &'static str, limit: Option<&'static str>) -> Self {
        let table = Self { title: title.into(), unit, limit, tails: false };
        table.head();
        table
    }

    /// With columns for the tail of single operations, and for a limit, if there is one.
    pub(crate) fn with_tails(title: impl Into<String>, unit: &'static str, limit: Option<&'static str>) -> Self {
        let table = Self { title: title.into(), unit, limit, tails: true };
        table.head();
        table
    }

    fn head(&self) {
        print!("\n{:<44} {:>12} {:>12} {:>12}", self.title, format!("min {}", self.unit), "median", "max");
        if self.tails {
            print!(" {:>12} {:>12}", "p99", "p99.9");
        }
        match self.limit {
            Some(limit) => println!(" {:>12} {:>9}  limit: {limit}", "limit", "of limit"),
            None => println!(),
        }
    }

    pub(crate) fn row(&self, name: &str, figure: &Figure) {
        self.print(name, None, figure, None);
    }

    /// A row that depends on a number of bytes.
    pub(crate) fn sized(&self, bytes: usize, figure: &Figure, limit: Option<&Figure>) {
        let name = if bytes == 0 { "no data".to_owned() } else { size(bytes) };
        self.print(&name, Some(bytes), figure, limit);
    }

    /// The ratio is that of the medians.
    fn print(&self, name: &str, bytes: Option<usize>, figure: &Figure, limit: Option<&Figure>) {
        print!("{name:<44} {:>12} {:>12} {:>12}", text(figure.min()), text(figure.median()), text(figure.max()));
        if self.tails {
            let [p99, p999] = figure.tail.map_or([f64::NAN; 2], |tail| [tail.p99, tail.p999]);
            print!(" {:>12} {:>12}", text(p99), text(p999));
        }
        match limit {
            Some(limit) => println!(" {:>12} {:>9.2}", text(limit.median()), figure.median() / limit.median()),
            None => println!(),
        }
        run::note(Record {
            table: self.title.clone(),
            name: name.to_owned(),
            bytes: bytes.map(|bytes| bytes as u64),
            unit: self.unit.to_owned(),
            runs: figure.runs().to_vec(),
            tail: figure.tail(),
            limit: limit.map(Figure::median),
            limit_name: self.limit.filter(|_| limit.is_some()).map(str::to_owned),
        });
    }
}

pub(crate) fn text(value: f64) -> String {
    match value {
        v if v.is_nan() => "-".to_owned(),
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}

pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 30 && b.is_multiple_of(1 << 30) => format!("{} GiB", b >> 30),
        b if b >= 1 << 20 && b.is_multiple_of(1 << 20) => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 && b.is_multiple_of(1 << 10) => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

/// A number of bytes in the format of the command line: 0, 8, 64K, 1M, 2G.
pub(crate) fn parse_size(text: &str) -> Result<usize, &'static str> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return Err("not a number of bytes: 8, 64K, 1M, 2G"),
    };
    let number: usize = digits.parse().map_err(|_| "not a number of bytes: 8, 64K, 1M, 2G")?;
    number.checked_mul(1 << shift).filter(|&n| n > 0 && n <= 1 << 40).ok_or("not between 1 byte and 1024G")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        for (text, bytes) in [("8", Ok(8)), ("64K", Ok(64 << 10)), ("1m", Ok(1 << 20)), ("2G", Ok(2 << 30))] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
        for text in ["", "K", "1KK", "-1", "0", "1T", "1.5M", "99999999999G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for (bytes, text) in [(100, "100 B"), (1500, "1500 B"), (64 << 10, "64 KiB"), (1 << 30, "1 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn the_tail_is_what_few_exceed() {
        let tail = Tail::of((0..10_000).rev().map(f64::from).collect()).unwrap();
        assert_eq!((tail.p99, tail.p999), (9900.0, 9990.0));
        assert!(Tail::of(Vec::new()).is_none());
    }
}
