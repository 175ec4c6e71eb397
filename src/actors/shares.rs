//! Fair shares: how many of an app's shards each live instance should own.

use crate::model::ids::{AppId, InstanceId, ShardId};
use crate::store::ShardFence;

/// How many of `shards` the instance `me` should own, if all `instances` fire `app`.
///
/// All get the same number. The remainder goes to the first instances in an order that differs
/// between apps, so that it is not always the same instance that has more.
pub(super) fn share_of(
    me: InstanceId,
    app: AppId,
    shards: usize,
    instances: &[InstanceId],
) -> usize {
    if !instances.contains(&me) {
        return 0;
    }
    let count = instances.len();
    let rank = instances.iter().filter(|other| turn(app, **other) < turn(app, me)).count();
    shards / count + usize::from(rank < shards % count)
}

/// The one of these instances that owns everything of `app` if it can not be divided among them.
pub(super) fn only_owner(app: AppId, instances: &[InstanceId]) -> Option<InstanceId> {
    instances.iter().copied().min_by_key(|instance| turn(app, *instance))
}

/// Chooses `count` of these shards for release. Idle ones come first, since they are released at
/// once.
pub(super) fn idle_first(
    mut may: Vec<ShardFence>,
    count: usize,
    is_busy: impl Fn(ShardId) -> bool,
) -> Vec<ShardFence> {
    may.sort_by_key(|fence| (is_busy(fence.shard), fence.shard));
    may.truncate(count);
    may
}

fn turn(app: AppId, instance: InstanceId) -> (u64, InstanceId) {
    // Fibonacci hashing, which scatters consecutive numbers.
    let mixed = (instance.0 as u64 ^ u64::from(app.0.unsigned_abs()).rotate_left(32))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed, instance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::Epoch;

    #[test]
    fn shares_add_up_and_differ_by_one_at_most() {
        for shards in 1..20 {
            for count in 1..8 {
                let all: Vec<_> = (1..=count).map(|n| InstanceId(n * 7919)).collect();
                for app in [AppId(1), AppId(2)] {
                    let shares: Vec<_> =
                        all.iter().map(|me| share_of(*me, app, shards, &all)).collect();
                    assert_eq!(shares.iter().sum::<usize>(), shards);
                    let (most, least) = (shares.iter().max(), shares.iter().min());
                    assert!(most.unwrap() - least.unwrap() <= 1, "{shares:?}");
                }
            }
        }
    }

    #[test]
    fn whoever_has_more_than_a_share_leaves_others_less() {
        let all: Vec<_> = (1..=3).map(|n| InstanceId(n * 7919)).collect();
        for shards in 1..20 {
            for held in 0..=shards {
                let mine = share_of(all[0], AppId(1), shards, &all);
                let of_others: usize =
                    all[1..].iter().map(|other| share_of(*other, AppId(1), shards, &all)).sum();
                assert!(held <= mine || shards - held < of_others, "{held} of {shards}");
            }
        }
    }

    #[test]
    fn idle_shards_are_given_up_first() {
        let fence =
            |shard| ShardFence { shard: ShardId(shard), owner: InstanceId(1), epoch: Epoch(1) };
        let shards = |fences: Vec<ShardFence>| -> Vec<i32> {
            fences.iter().map(|fence| fence.shard.0).collect()
        };
        let held = || (1..=4).map(fence).collect::<Vec<_>>();
        let is_busy = |shard: ShardId| shard.0 < 3;
        assert_eq!(shards(idle_first(held(), 1, is_busy)), [3]);
        assert_eq!(shards(idle_first(held(), 3, is_busy)), [3, 4, 1]);
        assert_eq!(shards(idle_first(held(), 9, is_busy)), [3, 4, 1, 2]);
    }

    #[test]
    fn what_is_left_over_goes_to_others_in_other_apps() {
        let all: Vec<_> = (1..=2).map(InstanceId).collect();
        let firsts = (1..50).filter(|app| share_of(all[0], AppId(*app), 1, &all) == 1).count();
        assert!((5..45).contains(&firsts), "{firsts} of 49");
    }
}
