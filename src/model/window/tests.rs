//! One test for each rule, each with the interleaving that breaks without it.

mod audits;
mod bounds;
mod firing;
mod keys;
mod proptest;
mod tickets;
mod world;

use self::world::{id_of, job};
use super::{PageRequest, Place, Room, Window, WindowLimits, Withdrawn};
use crate::model::ids::{Epoch, JobId, ShardId};
use crate::model::job::{Job, JobData, Priority};

const SHARD: ShardId = ShardId(1);
const LIMITS: WindowLimits =
    WindowLimits { max_jobs: 120, max_bytes: 1 << 20, page_size: 10, aging_ms: 100 };

/// A job of the one list that most tests are about.
fn normal(id: u8, due_ms: i64) -> Job {
    job(id, SHARD.0, Priority::Normal, due_ms)
}

fn sized(bytes: usize, of: Job) -> Job {
    Job { data: JobData::from_trusted("x".repeat(bytes)), ..of }
}

/// A window with one shard of which nothing is known.
fn fresh(limits: WindowLimits) -> Window {
    let mut window = Window::new(limits);
    window.add_shard(SHARD, Epoch(1));
    window
}

/// A window that knows that its shard's table is empty.
fn of_empty_table(limits: WindowLimits) -> Window {
    let mut window = fresh(limits);
    for page in window.wanted_pages() {
        window.apply_page(page, Vec::new());
    }
    window
}

/// The page of the normal list; the others are empty in the table.
fn normal_page(window: &mut Window) -> PageRequest {
    let mut pages = window.wanted_pages();
    let normal = pages.iter().position(|page| page.priority == Priority::Normal).unwrap();
    let page = pages.remove(normal);
    for other in pages {
        window.apply_page(other, Vec::new());
    }
    page
}

/// A window that knows the normal list up to its first two rows, which are full page.
fn with_two(first: Job, second: Job) -> Window {
    let mut window = fresh(LIMITS);
    let mut page = normal_page(&mut window);
    page.limit = 2;
    window.apply_page(page, vec![first, second]);
    window
}

fn admit(window: &mut Window, jobs: Vec<Job>) {
    let ticket = window.take_ticket();
    window.return_ticket(ticket, jobs);
}

/// Room for so many jobs and bytes, all of which may start.
fn room(jobs: usize, bytes: usize) -> Room {
    Room { jobs, starts: usize::MAX, bytes }
}

/// Takes all that is due, and returns the first bytes of the ids.
fn take(window: &mut Window, now_ms: i64) -> Vec<u8> {
    window
        .take_due(now_ms, room(usize::MAX, usize::MAX), |_| true)
        .iter()
        .map(|job| job.id.into_bytes()[0])
        .collect()
}

/// Answers the look-up that the window wants of these ids.
fn look_up(window: &mut Window, ids: &[u8], rows: Vec<Job>) {
    let look_up = window.wanted_look_up(10).unwrap();
    assert_eq!(look_up.ids, ids.iter().map(|id| id_of(*id)).collect::<Vec<_>>());
    window.apply_look_up(look_up, rows);
}

#[test]
fn a_short_page_ends_its_list_and_what_is_admitted_later_needs_no_other() {
    let mut window = of_empty_table(LIMITS);
    admit(&mut window, vec![normal(1, 5), normal(2, i64::MAX)]);
    assert_eq!((window.figures().jobs, window.next_due()), (2, Some(5)));
    assert_eq!(window.wanted_pages(), []);
}

#[test]
fn beyond_the_mark_an_admitted_job_stays_in_the_table() {
    let mut window = with_two(normal(1, 5), normal(2, 9));
    admit(&mut window, vec![normal(3, 7), normal(4, 10)]);
    assert_eq!(take(&mut window, 10), [1, 3, 2]);
    let page = normal_page(&mut window);
    assert_eq!(page.after, (9, id_of(2)));
}

#[test]
fn what_arrives_while_a_page_is_out_is_not_passed_by_it() {
    // The page is read, then 3 is committed and returned, then the page is applied.
    let mut window = with_two(normal(1, 5), normal(2, 9));
    let page = normal_page(&mut window);
    admit(&mut window, vec![normal(3, 20)]);
    assert_eq!(take(&mut window, 30), [1, 2]);
    window.apply_page(page, Vec::new());
    assert_eq!(take(&mut window, 30), [3]);
}

#[test]
fn what_arrives_while_a_page_is_out_and_lies_beyond_its_end_stays_in_the_table() {
    let mut window = with_two(normal(1, 5), normal(2, 9));
    let mut page = normal_page(&mut window);
    page.limit = 1;
    admit(&mut window, vec![normal(3, 20), normal(4, 30)]);
    window.apply_page(page, vec![normal(3, 20)]);
    assert_eq!(take(&mut window, 30), [1, 2, 3]);
    assert_eq!(window.figures().jobs, 0);
}

#[test]
fn a_page_does_not_pass_what_waited_for_it_and_fell_out() {
    let mut window = fresh(WindowLimits { max_jobs: 2, ..LIMITS });
    let page = normal_page(&mut window);
    admit(&mut window, vec![normal(1, 1), normal(2, 2), normal(3, 3)]);
    admit(&mut window, vec![normal(4, 4)]);
    window.apply_page(page, Vec::new());
    assert_eq!(take(&mut window, 9), [1, 2]);
    let page = normal_page(&mut window);
    assert!(page.after < normal(3, 3).key());
    window.apply_page(page, vec![normal(3, 3), normal(4, 4)]);
    assert_eq!(take(&mut window, 9), [3, 4]);
}

#[test]
fn a_page_is_ignored_when_its_list_has_shrunk_meanwhile() {
    // The page begins after 2; without 2 its rows would close a gap that is none.
    let mut window = fresh(WindowLimits { max_jobs: 2, ..LIMITS });
    let mut page = normal_page(&mut window);
    page.limit = 2;
    window.apply_page(page, vec![normal(1, 5), normal(2, 9)]);
    take(&mut window, 5);
    let page = normal_page(&mut window);
    admit(&mut window, vec![normal(3, 6), normal(4, 7)]);
    window.apply_page(page, vec![normal(5, 20)]);
    assert_eq!(take(&mut window, 30), [3, 4]);
    assert!(normal_page(&mut window).after < normal(2, 9).key());
}

#[test]
fn a_page_that_was_read_before_a_job_finished_does_not_bring_it_back() {
    let mut window = fresh(LIMITS);
    let ticket = window.take_ticket();
    let page = normal_page(&mut window);
    assert_eq!(window.withdraw(SHARD, id_of(1)), Withdrawn::Absent);
    window.finished(id_of(1));
    assert_eq!(window.figures().tombstones, 1);
    window.apply_page(page, vec![normal(1, 5)]);
    assert!(take(&mut window, 9).is_empty());
    look_up(&mut window, &[1], Vec::new());
    assert_eq!(window.figures().tombstones, 1);
    window.return_ticket(ticket, Vec::new());
    assert_eq!(window.figures().tombstones, 0);
}

#[test]
fn a_page_that_was_read_before_a_retry_does_not_bring_the_old_row() {
    // What is read before the retry's commit has it at 5, what is read after at 20: in either
    // case it fires once, at 20.
    for read in [normal(1, 5), normal(1, 20)] {
        let mut window = fresh(LIMITS);
        let page = normal_page(&mut window);
        assert_eq!(window.withdraw(SHARD, id_of(1)), Withdrawn::Absent);
        window.put_back(normal(1, 20));
        window.apply_page(page, vec![read]);
        assert!(take(&mut window, 19).is_empty());
        assert_eq!(take(&mut window, 20), [1]);
    }
}

#[test]
fn a_retry_beyond_the_mark_is_left_to_the_table() {
    let mut window = with_two(normal(1, 5), normal(2, 9));
    take(&mut window, 5);
    window.put_back(normal(1, 20));
    assert_eq!(take(&mut window, 30), [2]);
    let page = normal_page(&mut window);
    window.apply_page(page, vec![normal(1, 20)]);
    assert_eq!(take(&mut window, 30), [1]);
}

#[test]
fn a_successor_does_not_fire_what_still_runs() {
    let mut window = fresh(LIMITS);
    window.adopt_in_flight([(id_of(1), SHARD)]);
    let page = normal_page(&mut window);
    window.apply_page(page, vec![normal(1, 5), normal(2, 5)]);
    assert_eq!(take(&mut window, 9), [2]);
    window.put_back(normal(1, 6));
    look_up(&mut window, &[1], vec![normal(1, 6)]);
    assert_eq!(take(&mut window, 9), [1]);
}

#[test]
fn what_is_older_than_the_shards_return_is_looked_up() {
    // While another instance owned the shard, it fired both jobs.
    let mut window = of_empty_table(LIMITS);
    admit(&mut window, vec![normal(1, 5)]);
    take(&mut window, 5);
    let ticket = window.take_ticket();
    window.remove_shard(SHARD);
    window.add_shard(SHARD, Epoch(3));
    for page in window.wanted_pages() {
        window.apply_page(page, Vec::new());
    }
    window.return_ticket(ticket, vec![normal(2, 6)]);
    window.put_back(normal(1, 7));
    assert!(take(&mut window, 9).is_empty());
    look_up(&mut window, &[1, 2], Vec::new());
}

#[test]
fn a_shard_that_is_ours_at_another_epoch_is_read_anew() {
    // In between another instance owned it, fired 1 and inserted 2.
    let mut window = of_empty_table(LIMITS);
    admit(&mut window, vec![normal(1, 5)]);
    window.add_shard(SHARD, Epoch(1));
    assert_eq!(window.figures().jobs, 1, "at the same epoch it was ours all the time");
    window.add_shard(SHARD, Epoch(3));
    assert!(take(&mut window, 10).is_empty());
    let page = normal_page(&mut window);
    window.apply_page(page, vec![normal(2, 6)]);
    assert_eq!(take(&mut window, 10), [2]);
}

#[test]
fn an_attempt_of_unknown_outcome_is_looked_up_and_older_pages_do_not_bring_it() {
    let mut window = fresh(LIMITS);
    let page = normal_page(&mut window);
    assert_eq!(window.withdraw(SHARD, id_of(1)), Withdrawn::Absent);
    window.outcome_unknown(id_of(1));
    window.apply_page(page, vec![normal(1, 5)]);
    assert!(take(&mut window, 9).is_empty());
    look_up(&mut window, &[1, 1], vec![normal(1, 8)]);
    assert_eq!(take(&mut window, 9), [1]);
}

#[test]
fn a_look_up_that_fails_is_wanted_again() {
    let mut window = of_empty_table(LIMITS);
    window.look_up(id_of(1));
    let failed = window.wanted_look_up(10).unwrap();
    window.look_up_failed(failed);
    look_up(&mut window, &[1], vec![normal(1, 5)]);
    assert_eq!(take(&mut window, 9), [1]);
}

#[test]
fn a_failed_page_is_asked_for_again() {
    let mut window = fresh(LIMITS);
    let page = normal_page(&mut window);
    assert_eq!(window.wanted_pages(), []);
    admit(&mut window, vec![normal(1, 5)]);
    window.page_failed(page);
    assert_eq!(window.figures().jobs, 0);
    let page = normal_page(&mut window);
    window.apply_page(page, vec![normal(1, 5)]);
    assert_eq!(take(&mut window, 9), [1]);
}

fn in_flight_of(window: &Window, shard: ShardId) -> usize {
    let of_shard = |place: &&Place| matches!(place, Place::InFlight(f) if f.shard == shard);
    window.places.values().filter(of_shard).count()
}

#[test]
fn a_shard_is_here_at_its_epoch_with_what_it_has_in_flight() {
    let other = ShardId(2);
    let mut window = of_empty_table(LIMITS);
    window.add_shard(other, Epoch(7));
    assert_eq!(window.shards().collect::<Vec<_>>(), [(SHARD, Epoch(1)), (other, Epoch(7))]);
    assert_eq!([SHARD, other].map(|shard| window.epoch(shard)), [Some(Epoch(1)), Some(Epoch(7))]);
    admit(&mut window, vec![normal(1, 5), normal(2, 5), normal(3, 9)]);
    take(&mut window, 5);
    assert_eq!([SHARD, other].map(|shard| in_flight_of(&window, shard)), [2, 0]);
    let figures = window.figures();
    assert_eq!((figures.lists, figures.jobs, figures.in_flight), (6, 1, 2));
    window.remove_shard(SHARD);
    assert_eq!((window.epoch(SHARD), in_flight_of(&window, SHARD)), (None, 2));
}

#[test]
fn a_shard_that_is_added_again_at_its_epoch_keeps_what_is_known() {
    let mut window = of_empty_table(LIMITS);
    admit(&mut window, vec![normal(1, 5)]);
    window.add_shard(SHARD, Epoch(1));
    assert_eq!((window.figures().jobs, window.wanted_pages()), (1, vec![]));
    window.add_shard(SHARD, Epoch(2));
    assert_eq!((window.figures().jobs, window.wanted_pages().len()), (0, 3));
}
