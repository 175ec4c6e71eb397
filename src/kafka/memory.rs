//! The memory of records that were taken from their queues and are not admitted yet: a semaphore
//! that all readers share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes that one permit covers.
const UNIT: usize = 1024;
/// Copies of a record while it is admitted: the raw record, the entry of the batch, and the
/// parameters of the statement.
const COPIES: usize = 3;
/// Memory of a record in addition to its own bytes.
const OVERHEAD: usize = 512;
/// The size that is reserved before the first record is taken, since its size is not known
/// before.
const FIRST: usize = 1 << 20;

/// The memory that the readers of all partitions share. It is granted in the order of requests.
#[derive(Debug)]
pub(super) struct RecordMemory {
    units: Arc<Semaphore>,
    all: usize,
}

/// The memory reserved for one batch; released when dropped.
#[derive(Debug)]
pub(super) struct BatchMemory {
    units: Arc<Semaphore>,
    permit: OwnedSemaphorePermit,
    bytes: usize,
}

impl RecordMemory {
    /// Memory for `bytes`, which include the copies.
    pub(super) fn new(bytes: usize) -> Self {
        let all = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(all)), all }
    }

    /// Waits for enough memory for a first record. Never `None`, since the semaphore is never
    /// closed.
    pub(super) async fn reserve(&self) -> Option<BatchMemory> {
        let permit = self.units.clone().acquire_many_owned(self.first()).await.ok()?;
        Some(BatchMemory { units: self.units.clone(), permit, bytes: 0 })
    }

    /// Reserves memory for a first record without waiting; `None` if all of it is in use.
    pub(super) fn try_reserve(&self) -> Option<BatchMemory> {
        let permit = self.units.clone().try_acquire_many_owned(self.first()).ok()?;
        Some(BatchMemory { units: self.units.clone(), permit, bytes: 0 })
    }

    fn first(&self) -> u32 {
        u32::try_from(units_of(FIRST * COPIES).min(self.all)).unwrap_or(u32::MAX)
    }
}

impl BatchMemory {
    /// Adds a record of this size; false if another one might not fit.
    pub(super) fn add(&mut self, size: usize) -> bool {
        self.bytes += size.saturating_mul(COPIES) + OVERHEAD;
        let (needed, had) = (units_of(self.bytes), self.permit.num_permits());
        if needed < had {
            return true;
        }
        // Reserves twice as much as needed, so that not every record asks the semaphore.
        let more = u32::try_from(needed.saturating_mul(2) - had).unwrap_or(u32::MAX);
        match self.units.clone().try_acquire_many_owned(more) {
            Ok(permit) => {
                self.permit.merge(permit);
                true
            }
            Err(_) => false,
        }
    }

    /// Releases what is reserved beyond the batch's size.
    pub(super) fn trim(&mut self) {
        let surplus = self.permit.num_permits().saturating_sub(units_of(self.bytes));
        drop(self.permit.split(surplus));
    }
}

fn units_of(bytes: usize) -> usize {
    bytes / UNIT + 1
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn batches_share_the_room_and_none_is_too_large_to_be_read() {
        let memory = RecordMemory::new(8 << 20);
        let mut first = memory.reserve().await.unwrap();
        assert!(first.add(100), "there is room for another one");
        first.trim();
        assert_eq!(memory.units.available_permits(), (8 << 20) / UNIT - 1);
        assert!(!first.add(64 << 20), "it was taken, and nothing else fits");
        let mut second = memory.reserve().await.unwrap();
        assert!(second.add(1 << 20));
        assert!(!second.add(1 << 20));
        second.trim();
        assert!(memory.reserve().now_or_never().is_none(), "it is full");
        drop(second);
        assert!(memory.reserve().now_or_never().is_some());
    }
}
