//! Bounds, the order of firing, and what keeps a job from it.

use std::sync::Arc;

use super::*;

#[test]
fn what_falls_out_is_read_again() {
    let mut window = of_empty_table(WindowLimits { max_jobs: 2, ..LIMITS });
    admit(&mut window, vec![normal(1, 5), normal(2, 6), normal(3, 7), normal(4, 8)]);
    assert_eq!(take(&mut window, 9), [1, 2]);
    let page = normal_page(&mut window);
    window.apply_page(page, vec![normal(3, 7), normal(4, 8)]);
    assert_eq!(take(&mut window, 9), [3, 4]);
}

#[test]
fn a_flood_of_low_jobs_does_not_keep_a_high_one_out() {
    let mut window = of_empty_table(WindowLimits { max_jobs: 12, ..LIMITS });
    let flood = (0..50).map(|id| job(id, SHARD.0, Priority::Low, 1)).collect();
    admit(&mut window, flood);
    let high = (100..103).map(|id| job(id, SHARD.0, Priority::High, 900)).collect();
    admit(&mut window, high);
    assert_eq!(window.figures().jobs, 12);
    assert!(take(&mut window, 0).is_empty());
    let all = take(&mut window, 900);
    assert!(all.contains(&100) && all.contains(&101), "{all:?}");
}

#[test]
fn bytes_are_bounded_too_yet_a_list_may_hold_one_job_of_any_size() {
    let mut window = of_empty_table(WindowLimits { max_bytes: 10_000, ..LIMITS });
    admit(&mut window, vec![sized(50_000, normal(1, 1)), sized(50_000, normal(2, 2))]);
    assert_eq!(window.figures().jobs, 1);
    assert_eq!(take(&mut window, 9), [1]);
    let page = normal_page(&mut window);
    assert!(page.after < normal(2, 2).key());
}

#[test]
fn pages_are_smaller_where_rows_are_large() {
    let limits = WindowLimits { max_jobs: 10_000, page_size: 1_000, ..LIMITS };
    let mut window = fresh(WindowLimits { max_bytes: 600_000, ..limits });
    let mut page = normal_page(&mut window);
    page.limit = 1;
    window.apply_page(page, vec![sized(50_000, normal(1, 1))]);
    take(&mut window, 1);
    let page = normal_page(&mut window);
    assert!((2..=12).contains(&page.limit), "{page:?}");
}

#[test]
fn fresh_jobs_go_by_priority_and_then_by_due_time() {
    let mut window = of_empty_table(LIMITS);
    let low = |id, due_ms| job(id, SHARD.0, Priority::Low, due_ms);
    let high = |id, due_ms| job(id, SHARD.0, Priority::High, due_ms);
    admit(&mut window, vec![low(1, 171), low(2, 170), normal(3, 172), high(4, 210), high(5, 209)]);
    assert_eq!(take(&mut window, 260), [5, 4, 3, 2, 1]);
}

#[test]
fn what_has_waited_long_has_one_start_in_four_and_fresh_high_jobs_the_others() {
    let mut window = of_empty_table(LIMITS);
    let low = (1..=4).map(|id| job(id, SHARD.0, Priority::Low, i64::from(id)));
    let normal = (5..=7).map(|id| normal(id, i64::from(id)));
    let high = (10..=21).map(|id| job(id, SHARD.0, Priority::High, 1_000));
    admit(&mut window, low.chain(normal).chain(high).collect());
    let order = take(&mut window, 1_000);
    // The earliest due of all priorities, each fourth time.
    assert_eq!(order[..16], [10, 11, 12, 1, 13, 14, 15, 2, 16, 17, 18, 3, 19, 20, 21, 4]);
    assert_eq!(order[16..], [5, 6, 7]);
}

#[test]
fn neither_an_overdue_backlog_nor_a_stream_of_fresh_jobs_starves_the_other() {
    let mut window = of_empty_table(WindowLimits { max_jobs: 250, ..LIMITS });
    let backlog = (0..100).map(|id| job(id, SHARD.0, Priority::Low, i64::from(id)));
    admit(&mut window, backlog.collect());
    for tick in 0..100 {
        let now_ms = 10_000 + tick;
        let fresh: Vec<Job> =
            (200..203).map(|id| job(id, SHARD.0, Priority::High, now_ms)).collect();
        admit(&mut window, fresh);
        let taken = window.take_due(now_ms, room(4, usize::MAX), |_| true);
        let ids: Vec<u8> = taken.iter().map(|job| job.id.into_bytes()[0]).collect();
        assert_eq!(ids.iter().filter(|id| **id >= 200).count(), 3, "fresh ones wait: {ids:?}");
        assert!(ids.contains(&(tick as u8)), "the backlog waits: {ids:?}");
        for job in taken {
            window.finished(job.id);
        }
    }
}

#[test]
fn a_job_that_was_late_when_it_was_created_has_not_waited_before() {
    let mut window = of_empty_table(LIMITS);
    let high = (1..=4).map(|id| job(id, SHARD.0, Priority::High, 250));
    let late = Job { created_ms: 255, ..job(9, SHARD.0, Priority::Low, 0) };
    admit(&mut window, high.chain([late]).collect());
    assert_eq!(take(&mut window, 260), [1, 2, 3, 4, 9]);
}

#[test]
fn a_shard_on_hold_gives_no_jobs_and_sets_no_timer() {
    let mut window = of_empty_table(LIMITS);
    admit(&mut window, vec![normal(1, 5)]);
    window.hold(SHARD);
    assert_eq!((window.next_due(), take(&mut window, 9)), (None, vec![]));
    window.unhold(SHARD);
    assert_eq!((window.next_due(), take(&mut window, 9)), (Some(5), vec![1]));
}

#[test]
fn a_withdrawn_job_does_not_fire_until_it_is_put_back() {
    let mut window = of_empty_table(LIMITS);
    admit(&mut window, vec![normal(1, 5)]);
    let withdrawn = window.withdraw(SHARD, id_of(1));
    assert_eq!(withdrawn, Withdrawn::Taken(Arc::new(normal(1, 5))));
    assert_eq!(window.withdraw(SHARD, id_of(1)), Withdrawn::InFlight);
    assert!(take(&mut window, 9).is_empty());
    window.put_back(normal(1, 5));
    assert_eq!(take(&mut window, 9), [1]);
}

#[test]
fn an_audit_takes_in_what_was_missed_and_counts_it() {
    let mut window = of_empty_table(LIMITS);
    admit(&mut window, vec![normal(1, 5), normal(2, 5)]);
    take(&mut window, 5);
    window.finished(id_of(2));
    admit(&mut window, vec![normal(4, 5)]);
    let audit = window.audit(SHARD, Priority::Normal).unwrap();
    let missing = window.apply_audit(audit, vec![normal(1, 5), normal(3, 6), normal(4, 5)]);
    assert_eq!(missing, 1);
    assert_eq!(take(&mut window, 9), [4, 3]);
}

#[test]
fn an_audit_leaves_out_what_ends_while_it_reads() {
    let mut window = of_empty_table(LIMITS);
    admit(&mut window, vec![normal(1, 5)]);
    let audit = window.audit(SHARD, Priority::Normal).unwrap();
    take(&mut window, 5);
    window.finished(id_of(1));
    assert_eq!(window.apply_audit(audit, vec![normal(1, 5)]), 0);
    assert!(take(&mut window, 9).is_empty());
}

#[test]
fn what_has_expired_is_taken_without_a_start() {
    let mut window = of_empty_table(LIMITS);
    let expired = |id, due_ms| Job { expires_ms: Some(7), ..normal(id, due_ms) };
    let rest = vec![expired(1, 4), normal(2, 5), expired(3, 6), normal(4, 7), expired(5, 8)];
    admit(&mut window, rest);
    assert_eq!(window.count_due(9, usize::MAX), 2);
    assert_eq!(window.count_due(9, 1), 1);
    let mut take = |starts| -> Vec<u8> {
        let taken = window.take_due(9, Room { starts, ..room(usize::MAX, usize::MAX) }, |_| true);
        taken.iter().map(|job| job.id.into_bytes()[0]).collect()
    };
    assert_eq!(take(0), [1]);
    assert_eq!(take(1), [2, 3]);
    assert_eq!(take(1), [4, 5]);
}
