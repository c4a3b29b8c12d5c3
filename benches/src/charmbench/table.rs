//! Figures and how they are printed.

/// The middle, least and greatest of several measurements.
#[derive(Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Figure {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { min: values[0], median: values[values.len() / 2], max: values[values.len() - 1] }
    }

    /// From the nanoseconds that `bytes` take: GB/s.
    pub(crate) fn speed(self, bytes: usize) -> Self {
        let speed = |ns: f64| bytes as f64 / ns;
        Self { min: speed(self.max), median: speed(self.median), max: speed(self.min) }
    }
}

/// Measures ours and its limit, if there is one, in turn: nanoseconds.
pub(crate) fn in_turn<E>(
    runs: usize,
    limit: Option<&dyn Fn() -> f64>,
    mut ours: impl FnMut() -> Result<f64, E>,
) -> Result<(Figure, Option<Figure>), E> {
    let (mut all, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        limits.extend(limit.map(|limit| limit()));
        all.push(ours()?);
    }
    Ok((Figure::of(all), (!limits.is_empty()).then(|| Figure::of(limits))))
}

pub(crate) fn head(title: &str, unit: &str) {
    println!("\n{title:<44} {:>12} {:>12} {:>12}", format!("min {unit}"), "median", "max");
}

/// A head with room for a limit.
pub(crate) fn head_limited(title: &str, unit: &str, limit: Option<&str>) {
    let Some(limit) = limit else { return head(title, unit) };
    println!(
        "\n{title:<44} {:>12} {:>12} {:>12} {:>12} {:>9}  limit: {limit}",
        format!("min {unit}"),
        "median",
        "max",
        "limit",
        "of limit"
    );
}

pub(crate) fn row(name: &str, figure: Figure) {
    row_limited(name, figure, None);
}

/// The ratio is that of the medians.
pub(crate) fn row_limited(name: &str, figure: Figure, limit: Option<Figure>) {
    print!("{name:<44} {:>12} {:>12} {:>12}", text(figure.min), text(figure.median), text(figure.max));
    if let Some(limit) = limit {
        print!(" {:>12} {:>9.2}", text(limit.median), figure.median / limit.median);
    }
    println!();
}

fn text(value: f64) -> String {
    match value {
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}

pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

/// A number of bytes as it is written on the command line: 8, 64K, 1M, 2G.
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
    }
}
