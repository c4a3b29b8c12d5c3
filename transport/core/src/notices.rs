//! Tells the user about events that do not end the job.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Tells the user something, from any thread. By default the text goes to `tracing` only.
#[derive(Clone)]
pub struct Notices(Arc<Told<dyn Fn(String) + Send + Sync>>);

struct Told<F: ?Sized> {
    once: Mutex<BTreeSet<&'static str>>,
    tell: F,
}

impl Notices {
    /// Passes every text to `tell`, on the thread that calls [`Notices::tell`].
    pub fn new(tell: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Told { once: Mutex::default(), tell }))
    }

    /// Tells the user `text`.
    pub fn tell(&self, text: String) {
        (self.0.tell)(text);
    }

    /// Tells the user a text that must not be repeated.
    pub fn tell_once(&self, text: &'static str) {
        let new = self.0.once.lock().unwrap_or_else(PoisonError::into_inner).insert(text);
        if new {
            self.tell(text.to_owned());
        }
    }
}

impl Default for Notices {
    fn default() -> Self {
        Self::new(|text| tracing::warn!("{text}"))
    }
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notices")
    }
}
