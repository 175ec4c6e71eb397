//! How often each job was attempted, as a handler counts it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Attempts by request id. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempts(Arc<Mutex<BTreeMap<String, u32>>>);

impl Attempts {
    /// Counts one more attempt, and returns its number: the first is 1.
    pub(crate) fn begin(&self, id: &str) -> u32 {
        let mut all = self.0.lock().expect("nobody panics with it");
        let attempts = all.entry(id.to_owned()).or_default();
        *attempts += 1;
        *attempts
    }

    pub(crate) fn of(&self, id: &str) -> u32 {
        self.all().get(id).copied().unwrap_or(0)
    }

    pub(crate) fn all(&self) -> BTreeMap<String, u32> {
        self.0.lock().expect("nobody panics with it").clone()
    }
}
