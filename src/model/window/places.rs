//! The state of each job that the window knows, by id.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::outstanding::ReadId;
use crate::model::ids::{JobId, ShardId};
use crate::model::job::Priority;

/// The ids that are in a list or in flight, never both.
pub(super) type Places = IdMap<Place>;

/// A map by job id.
pub(super) type IdMap<V> = HashMap<JobId, V, BuildHasherDefault<IdHasher>>;

/// The state of one job.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In the list of this shard and priority, at this due time.
    Listed { shard: ShardId, priority: Priority, due_ms: i64 },
    /// Taken by the caller, without an outcome yet.
    InFlight(Flight),
}

/// A job that was taken by the caller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// Its shard.
    pub(super) shard: ShardId,
    /// The last read that began before: shows whether this instance has owned the shard since.
    pub(super) since: ReadId,
    /// A read returned its row meanwhile. That may be the old row, or a new one under the same
    /// id, admitted after a delete that was committed but not yet passed to the window.
    pub(super) seen_again: bool,
}

/// Uses an id nearly unchanged: ids are digests already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = self.0.rotate_left(32) ^ u64::from_le_bytes(word);
        }
    }

    /// The length of the id: the same for all.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        // The map takes its tag from the upper bits: every byte must reach them.
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn every_byte_of_an_id_reaches_the_bits_that_a_map_tags_by() {
        for (filled, nth) in [0, 0xff].into_iter().flat_map(|byte| (0..16).map(move |n| (byte, n)))
        {
            let tags: BTreeSet<u64> = (0..=u8::MAX)
                .map(|byte| {
                    let mut id = [filled; 16];
                    id[nth] = byte;
                    let hashers = BuildHasherDefault::<IdHasher>::default();
                    hashers.hash_one(JobId::from_bytes(id)) >> 57
                })
                .collect();
            assert!(tags.len() > 30, "byte {nth} among {filled}: {} tags", tags.len());
        }
    }
}
