//! What limits the attempts of an app that run at a time over all instances: its permits, which
//! belong to its shards, and the concurrency keys of its jobs.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::ids::ShardId;
use crate::store::AppRow;

/// The attempts that run with a concurrency key on this instance. All jobs of one key are in one
/// shard, so these are all there are while this instance owns it.
#[derive(Debug, Default)]
pub(super) struct KeyPermits(Mutex<Keys>);

#[derive(Debug, Default)]
struct Keys {
    running: HashMap<Box<str>, u32>,
    /// What has ended since the last call of [`KeyPermits::freed`].
    freed: Vec<(ShardId, Box<str>)>,
}

impl KeyPermits {
    /// Counts another attempt with this key, unless `most` run.
    pub(super) fn take(&self, name: &str, most: NonZeroU32) -> bool {
        let mut keys = self.keys();
        match keys.running.get_mut(name) {
            Some(running) if *running >= most.get() => return false,
            Some(running) => *running += 1,
            None => drop(keys.running.insert(name.into(), 1)),
        }
        true
    }

    /// An attempt with this key has ended, timed out or was not started.
    pub(super) fn give_back(&self, shard: ShardId, name: &str) {
        let mut keys = self.keys();
        if let Some(running) = keys.running.get_mut(name) {
            *running -= 1;
            if *running == 0 {
                keys.running.remove(name);
            }
        }
        keys.freed.push((shard, name.into()));
    }

    /// Counts the attempts that run anew, by their keys: a scheduler that panicked may have taken
    /// keys for attempts that never started.
    pub(super) fn recount<'a>(&self, running: impl Iterator<Item = &'a str>) {
        let mut keys = self.keys();
        keys.running.clear();
        for name in running {
            *keys.running.entry(name.into()).or_default() += 1;
        }
    }

    /// The keys that were given back since the last call, and their shards.
    pub(super) fn freed(&self) -> Vec<(ShardId, Box<str>)> {
        std::mem::take(&mut self.keys().freed)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many attempts may run for `shard` if `most` may run for the app. An instance may run as many
/// as its shards have together: since each shard has one owner, there are never more, whatever
/// instances know of each other.
///
/// The permits are divided among the shards that the app had at first, as evenly as possible.
pub(super) fn permits_of(shard: ShardId, row: &AppRow, most: NonZeroU32) -> u32 {
    let first = row.first_shards.max(1);
    let number = row.shards.iter().position(|other| *other == shard);
    match number.and_then(|number| u32::try_from(number).ok()) {
        Some(number) if number < first => {
            most.get() / first + u32::from(number < most.get() % first)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::AppId;
    use crate::store::AppRules;

    fn row(shards: i32, first_shards: u32) -> AppRow {
        AppRow {
            id: AppId(1),
            name: "sms".into(),
            rules: AppRules::default(),
            shards: (10..10 + shards).map(ShardId).collect(),
            first_shards,
            pause: None,
        }
    }

    #[test]
    fn permits_add_up_and_more_of_them_leave_no_shard_with_fewer() {
        for (shards, first) in [(1, 1), (8, 8), (12, 8)] {
            let row = row(shards, first);
            let mut before = vec![0; row.shards.len()];
            for most in 1..40 {
                let most = NonZeroU32::new(most).unwrap();
                let permits: Vec<u32> =
                    row.shards.iter().map(|shard| permits_of(*shard, &row, most)).collect();
                assert_eq!(permits.iter().sum::<u32>(), most.get());
                assert!(permits.iter().zip(&before).all(|(now, before)| now >= before));
                before = permits;
            }
        }
        assert_eq!(permits_of(ShardId(99), &row(8, 8), NonZeroU32::MIN), 0, "of another app");
    }

    #[test]
    fn a_key_is_free_when_one_of_its_attempts_has_ended() {
        let (keys, two) = (KeyPermits::default(), NonZeroU32::new(2).unwrap());
        assert!(keys.take("a", two) && keys.take("a", two) && keys.take("b", two));
        assert!(!keys.take("a", two));
        keys.give_back(ShardId(1), "a");
        assert_eq!(keys.freed(), [(ShardId(1), "a".into())]);
        assert!(keys.freed().is_empty());
        assert!(keys.take("a", two) && !keys.take("a", two));
        keys.recount(["a", "b"].into_iter());
        assert!(keys.take("a", two) && !keys.take("a", two));
    }
}
