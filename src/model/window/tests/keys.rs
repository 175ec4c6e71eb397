//! Concurrency keys: who waits, who goes on, and what is dropped from memory meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::world::World;
use super::*;

fn keyed(id: u8, due_ms: i64, name: &str) -> Job {
    Job { concurrency_key: Some(name.into()), ..normal(id, due_ms) }
}

/// Takes all that is due while each key may run once at a time.
fn take_once(window: &mut Window, taken: &mut HashMap<String, u32>) -> Vec<u8> {
    let jobs = window.take_due(99, room(usize::MAX, usize::MAX), |name| {
        let running = taken.entry(name.to_owned()).or_default();
        let is_free = *running == 0;
        *running += u32::from(is_free);
        is_free
    });
    jobs.iter().map(|job| job.id.into_bytes()[0]).collect()
}

#[test]
fn a_job_whose_key_is_taken_waits_and_others_go_on() {
    let mut window = of_empty_table(LIMITS);
    let high = Job { priority: Priority::High, ..keyed(5, 9, "a") };
    let jobs = vec![keyed(1, 1, "a"), keyed(2, 2, "a"), normal(3, 3), keyed(4, 4, "b")];
    admit(&mut window, jobs);
    let mut taken = HashMap::new();
    assert_eq!(take_once(&mut window, &mut taken), [1, 3, 4]);
    assert_eq!((window.next_due(), window.count_due(99, 9)), (None, 0), "no timer, no start");
    admit(&mut window, vec![high]);
    assert_eq!(take_once(&mut window, &mut taken), [] as [u8; 0]);
    // By priority, then by due time.
    for next in [5, 2] {
        taken.clear();
        window.key_freed(SHARD, "a");
        assert_eq!(take_once(&mut window, &mut taken), [next]);
    }
}

#[test]
fn what_waits_for_a_key_can_be_withdrawn_and_its_turn_passes_on() {
    let mut window = of_empty_table(LIMITS);
    admit(
        &mut window,
        vec![keyed(1, 1, "a"), keyed(2, 2, "a"), keyed(3, 3, "a"), keyed(4, 4, "a")],
    );
    let mut taken = HashMap::new();
    assert_eq!(take_once(&mut window, &mut taken), [1]);
    assert!(matches!(window.withdraw(SHARD, id_of(3)), Withdrawn::Taken(_)));
    taken.clear();
    window.key_freed(SHARD, "a");
    // 2 is next, and goes away before it starts.
    assert!(matches!(window.withdraw(SHARD, id_of(2)), Withdrawn::Taken(_)));
    assert_eq!(take_once(&mut window, &mut taken), [4]);
}

#[test]
fn one_that_expires_while_it_waits_passes_its_turn_on() {
    let mut window = of_empty_table(LIMITS);
    let expired = Job { expires_ms: Some(50), ..keyed(2, 2, "a") };
    admit(&mut window, vec![keyed(1, 1, "a"), keyed(3, 3, "a")]);
    let mut taken = HashMap::new();
    assert_eq!(take_once(&mut window, &mut taken), [1]);
    admit(&mut window, vec![expired]);
    taken.clear();
    assert_eq!(take_once(&mut window, &mut taken), [2], "it needs no key");
    assert_eq!(take_once(&mut window, &mut taken), [3]);
}

#[test]
fn a_flood_of_one_key_leaves_room_for_others_and_all_have_their_turn() {
    let limits = WindowLimits { max_jobs: 16, page_size: 5, ..LIMITS };
    let mut world = World::new(limits);
    for id in 0..120 {
        world.foreign_insert(Job { shard: ShardId(0), ..keyed(id, i64::from(id), "flood") });
    }
    for id in 120..130 {
        let name = format!("{}", id % 3);
        world.foreign_insert(Job { shard: ShardId(0), ..keyed(id, i64::from(id), &name) });
    }
    world.now_ms = 1_000;
    let mut order = Vec::new();
    let mut running: BTreeMap<String, JobId> = BTreeMap::new();
    for round in 0..10_000 {
        world.fill();
        let mut started = BTreeSet::new();
        let jobs = world.window.take_due(1_000, room(3, usize::MAX), |name| {
            !running.contains_key(name) && started.insert(name.to_owned())
        });
        for job in jobs {
            let name = job.concurrency_key.clone().unwrap();
            assert!(running.insert(name, job.id).is_none(), "two at a time");
            order.push(job.id.into_bytes()[0]);
        }
        assert!(world.window.figures().jobs <= 16, "{:?}", world.window.figures());
        // The flood's attempts take ten rounds each.
        let ended: Vec<String> =
            running.keys().filter(|name| *name != "flood" || round % 10 == 0).cloned().collect();
        for name in ended {
            let id = running.remove(&name).unwrap();
            world.table.remove(&id);
            world.window.finished(id);
            world.window.key_freed(ShardId(0), &name);
        }
        if order.len() == 130 {
            break;
        }
    }
    assert_eq!(order.len(), 130, "{order:?}");
    let last_other = order.iter().rposition(|id| *id >= 120).unwrap();
    assert!(last_other < 30, "others waited for the flood: {order:?}");
}
