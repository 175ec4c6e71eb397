//! A bound on the memory of records under way.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The memory for records under way, with librdkafka's copy of each.
const BYTES: usize = 32 << 20;
/// The bytes that one permit covers.
const UNIT: usize = 1024;
/// The sender keeps the record until its report, and librdkafka has a copy.
const COPIES: usize = 2;

/// Senders wait, in the order of their calls, until their record fits. One that is larger than
/// the whole memory is sent alone.
#[derive(Debug)]
pub(super) struct SendBudget {
    units: Semaphore,
}

impl SendBudget {
    pub(super) fn new() -> Self {
        Self { units: Semaphore::new(BYTES / UNIT) }
    }

    /// Waits until a record of `bytes` fits; the permit releases them when dropped. Never `None`,
    /// since the semaphore is never closed.
    pub(super) async fn reserve(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let units = (bytes.saturating_mul(COPIES) / UNIT + 1).min(BYTES / UNIT);
        self.units.acquire_many(u32::try_from(units).unwrap_or(u32::MAX)).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_that_is_too_large_is_sent_alone_and_none_waits_for_ever() {
        let budget = SendBudget::new();
        let small = budget.reserve(1).await;
        assert!(budget.reserve(usize::MAX).now_or_never().is_none(), "a record is under way");
        drop(small);
        let large = budget.reserve(usize::MAX).await;
        assert!(budget.reserve(1).now_or_never().is_none(), "it is full");
        drop(large);
        assert!(budget.reserve(BYTES / COPIES - UNIT).now_or_never().is_some());
    }
}
