//! The progress of a measurement: a bar on a terminal, nothing elsewhere. It is drawn between the runs, never during one. Under a launcher, which
//! merges the output of many processes, there is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar, which disappears when dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Of so many steps.
    pub(crate) fn of(steps: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}").expect("a template of known fields");
        let bar = ProgressBar::new(steps as u64).with_style(style);
        bar.tick();
        Self(bar)
    }

    /// Shows the name of the next step.
    pub(crate) fn next(&self, name: &str) {
        self.0.set_message(name.to_owned());
    }

    /// One step is done.
    pub(crate) fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
