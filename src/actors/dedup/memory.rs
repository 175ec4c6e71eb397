//! A bounded set of recent keys; when it is full, the older half is removed.

use std::collections::HashSet;

use crate::model::ids::KeyId;

/// The limit for both generations together.
const BUDGET_BYTES: usize = 18 * 1024 * 1024;
/// std's hash table needs a key and one control byte per slot. With two full generations a process
/// was measured to be larger by 18.0 million bytes, 1.01 times the value computed here.
const SLOT_BYTES: usize = size_of::<KeyId>() + 1;
/// Slots of one generation. The table grows by doubling, so this is a power of two.
const SLOTS: usize = 1 << (BUDGET_BYTES / 2 / SLOT_BYTES).ilog2();
/// Keys of one generation: with more than seven eighths of its slots in use the table would double.
const GENERATION: usize = SLOTS / 8 * 7;

/// Two generations of keys. A key is kept at least until `GENERATION` others were added after it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    young: HashSet<KeyId>,
    old: HashSet<KeyId>,
}

impl Memory {
    pub(super) fn knows(&self, key: &KeyId) -> bool {
        self.young.contains(key) || self.old.contains(key)
    }

    pub(super) fn remember(&mut self, key: KeyId) {
        if self.young.len() >= GENERATION {
            // Cleared in place, so that the tables are never reallocated.
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.old.remove(&key);
        self.young.insert(key);
    }

    /// How many keys it contains.
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> KeyId {
        KeyId::from_bytes((n as u128).to_be_bytes())
    }

    fn bytes(memory: &Memory) -> usize {
        let slots = (memory.young.capacity() + memory.old.capacity()) / 7 * 8;
        slots * SLOT_BYTES
    }

    #[test]
    fn its_bytes_are_bounded_and_a_generation_of_keys_is_always_known() {
        let mut memory = Memory::default();
        let (mut most, all) = (0, GENERATION * 5 / 2);
        for n in 0..all {
            memory.remember(key(n));
            most = most.max(bytes(&memory));
        }
        assert!(most <= BUDGET_BYTES, "{most} of {BUDGET_BYTES} bytes");
        assert!(most > BUDGET_BYTES / 2, "{most} of {BUDGET_BYTES} bytes: the rest lies idle");
        assert_eq!(memory.len(), GENERATION * 3 / 2, "one generation and a half");
        assert!((all - GENERATION..all).step_by(7).all(|n| memory.knows(&key(n))));
        assert!(!(0..GENERATION).step_by(7).any(|n| memory.knows(&key(n))));
    }

    #[test]
    fn a_key_that_comes_again_counts_once_and_is_young_again() {
        let mut memory = Memory::default();
        (0..GENERATION).for_each(|n| memory.remember(key(n)));
        memory.remember(key(GENERATION));
        memory.remember(key(0));
        assert_eq!(memory.len(), GENERATION + 1);
        (0..GENERATION).for_each(|n| memory.remember(key(GENERATION + 1 + n)));
        assert!(memory.knows(&key(0)) && !memory.knows(&key(1)));
    }
}
