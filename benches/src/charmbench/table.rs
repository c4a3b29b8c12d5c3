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
}

pub(crate) fn head(title: &str, unit: &str) {
    println!("\n{title:<44} {:>12} {:>12} {:>12}", format!("min {unit}"), "median", "max");
}

pub(crate) fn row(name: &str, figure: Figure) {
    println!("{name:<44} {:>12} {:>12} {:>12}", text(figure.min), text(figure.median), text(figure.max));
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
