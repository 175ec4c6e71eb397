//! A map by ids, which are digests and need no further hashing.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::model::ids::JobId;

/// A map by job id.
pub(super) type IdMap<V> = HashMap<JobId, V, BuildHasherDefault<IdHasher>>;

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
