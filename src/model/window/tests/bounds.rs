//! To the job and to the byte: when something has to leave, how much leaves, and how large
//! a page may be.

use super::super::list::Size;
use super::*;
use crate::model::ids::JobId;

/// A job with an id of its own, of which there are more than 256.
fn numbered(nth: u16, priority: Priority, due_ms: i64) -> Job {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&nth.to_be_bytes());
    Job { id: JobId::from_bytes(id), ..job(0, SHARD.0, priority, due_ms) }
}

fn many(count: u16, priority: Priority) -> Vec<Job> {
    (0..count).map(|nth| numbered(nth, priority, i64::from(nth))).collect()
}

fn limits_of_pages(window: &mut Window) -> Vec<(PageRequest, usize)> {
    let pages = window.wanted_pages().into_iter();
    pages
        .map(|page| {
            let limit = page.limit;
            (page, limit)
        })
        .collect()
}

/// One that has read a row of each list before, and so knows how large they are.
fn that_knows_its_rows(limits: WindowLimits) -> Window {
    let mut window = fresh(limits);
    for mut page in window.wanted_pages() {
        page.limit = 1;
        let row = numbered(page.priority as u16, page.priority, 0);
        window.apply_page(page, vec![row]);
    }
    window.forget(SHARD);
    window
}

#[test]
fn half_of_the_window_is_divided_among_the_lists() {
    let limits = WindowLimits { max_jobs: 120, max_bytes: 12_000, ..LIMITS };
    let mut window = fresh(limits);
    assert_eq!(window.guaranteed(), Size { jobs: 20, bytes: 2_000 });
    window.add_shard(ShardId(2), Epoch(1));
    assert_eq!(window.guaranteed(), Size { jobs: 10, bytes: 1_000 });
    let window = fresh(WindowLimits { max_jobs: 5, ..limits });
    assert_eq!(window.guaranteed(), Size { jobs: 1, bytes: 2_000 });
}

#[test]
fn a_full_window_keeps_all_and_one_job_more_makes_some_room() {
    let mut window = of_empty_table(WindowLimits { max_jobs: 128, ..LIMITS });
    admit(&mut window, many(128, Priority::Normal));
    assert_eq!(window.figures().jobs, 128);
    admit(&mut window, vec![numbered(500, Priority::Normal, 500)]);
    assert_eq!(window.figures().jobs, 126);
}

#[test]
fn a_window_full_of_bytes_keeps_all_and_one_more_job_makes_some_room() {
    let size = normal(1, 1).size();
    let mut window =
        of_empty_table(WindowLimits { max_jobs: 1_000, max_bytes: 128 * size, ..LIMITS });
    admit(&mut window, many(128, Priority::Normal));
    assert_eq!(window.figures().bytes, 128 * size);
    admit(&mut window, vec![numbered(500, Priority::Normal, 500)]);
    assert_eq!(window.figures().bytes, 126 * size);
}

#[test]
fn a_list_gives_way_down_to_its_guaranteed_part_and_no_further() {
    // The low list has more than its part, and fires last; the others have just theirs.
    let mut window = of_empty_table(WindowLimits { max_jobs: 12, ..LIMITS });
    for priority in [Priority::High, Priority::Normal] {
        let base = 100 * (1 + priority as u16);
        admit(&mut window, (0..2).map(|nth| numbered(base + nth, priority, 1 << 40)).collect());
    }
    admit(&mut window, many(9, Priority::Low));
    assert_eq!(window.figures().jobs, 12);
    admit(&mut window, (0..6).map(|nth| numbered(500 + nth, Priority::High, 1 << 41)).collect());
    let left = window.take_due(i64::MAX, room(usize::MAX, usize::MAX), |_| true);
    let of = |priority| left.iter().filter(|job| job.priority == priority).count();
    assert_eq!([Priority::High, Priority::Normal, Priority::Low].map(of), [2, 2, 8]);
}

#[test]
fn bytes_are_taken_from_the_next_list_when_one_has_just_its_part() {
    let size = normal(1, 1).size();
    let mut window =
        of_empty_table(WindowLimits { max_jobs: 1_000, max_bytes: 12 * size, ..LIMITS });
    let some = |base: u16, count: u16, priority, due_ms| {
        (base..base + count).map(|nth| numbered(nth, priority, due_ms)).collect()
    };
    admit(&mut window, some(100, 3, Priority::Low, 900));
    admit(&mut window, some(200, 9, Priority::Normal, 500));
    admit(&mut window, some(300, 3, Priority::High, 1));
    let left = window.take_due(i64::MAX, room(usize::MAX, usize::MAX), |_| true);
    let of = |priority| left.iter().filter(|job| job.priority == priority).count();
    assert_eq!([Priority::High, Priority::Normal, Priority::Low].map(of), [3, 6, 2]);
}

#[test]
fn what_fires_last_leaves_first_and_waiting_makes_up_for_rank() {
    // Class by class 100 ms: low at 0 fires before normal at 150, which fires before high at 300.
    let mut window = of_empty_table(WindowLimits { max_jobs: 18, ..LIMITS });
    admit(&mut window, (0..6).map(|nth| numbered(nth, Priority::Low, 0)).collect());
    admit(&mut window, (10..16).map(|nth| numbered(nth, Priority::Normal, 150)).collect());
    admit(&mut window, (20..27).map(|nth| numbered(nth, Priority::High, 300)).collect());
    assert_eq!(window.figures().jobs, 18);
    let left = window.take_due(1_000, room(usize::MAX, usize::MAX), |_| true);
    let of = |priority| left.iter().filter(|job| job.priority == priority).count();
    assert_eq!([Priority::High, Priority::Normal, Priority::Low].map(of), [6, 6, 6]);
}

#[test]
fn pages_share_what_is_free_and_count_as_held_while_they_are_out() {
    let limits = WindowLimits { max_jobs: 300, page_size: 1_000, ..LIMITS };
    let mut window = that_knows_its_rows(limits);
    let mut pages = limits_of_pages(&mut window);
    assert_eq!(pages.iter().map(|(_, limit)| *limit).collect::<Vec<_>>(), [100, 100, 100]);
    let (mut page, _) = pages.remove(0);
    page.limit = 10;
    window.apply_page(page, many(10, Priority::High));
    // 300, less the 10 that it has, less 200 that are expected.
    assert_eq!(limits_of_pages(&mut window)[0].1, 90);
}

#[test]
fn pages_share_the_bytes_that_are_free_too() {
    let size = normal(1, 1).size();
    let limits =
        WindowLimits { max_jobs: 10_000, max_bytes: 30 * size, page_size: 1_000, ..LIMITS };
    let mut window = that_knows_its_rows(limits);
    let mut pages = limits_of_pages(&mut window);
    assert_eq!(pages.iter().map(|(_, limit)| *limit).collect::<Vec<_>>(), [10, 10, 10]);
    window.page_failed(pages.remove(1).0);
    assert_eq!(limits_of_pages(&mut window)[0].1, 10);
}

#[test]
fn a_list_may_fill_its_guaranteed_part_though_the_others_took_the_rest() {
    let mut window = fresh(WindowLimits { max_jobs: 120, page_size: 100, ..LIMITS });
    for (mut page, _) in limits_of_pages(&mut window) {
        let rows = match page.priority {
            Priority::High => Vec::new(),
            Priority::Normal => many(5, Priority::Normal),
            Priority::Low => Vec::new(),
        };
        page.limit = rows.len().max(1);
        window.apply_page(page, rows);
    }
    let low = (0..115).map(|nth| numbered(200 + nth, Priority::Low, i64::from(nth))).collect();
    admit(&mut window, low);
    assert_eq!(window.figures().jobs, 120);
    let pages = limits_of_pages(&mut window);
    assert_eq!(pages.iter().map(|(_, limit)| *limit).collect::<Vec<_>>(), [15]);
}

#[test]
fn a_list_is_not_read_for_a_page_that_would_not_double_it() {
    let limits = WindowLimits { max_jobs: 10_000, page_size: 5, ..LIMITS };
    for (held, wanted) in [(4, 1), (5, 1), (6, 0)] {
        let mut window = fresh(limits);
        for (mut page, _) in limits_of_pages(&mut window) {
            if page.priority == Priority::Normal {
                page.limit = usize::from(held);
                window.apply_page(page, many(held, Priority::Normal));
            } else {
                window.apply_page(page, Vec::new());
            }
        }
        assert_eq!(window.wanted_pages().len(), wanted, "{held} held");
    }
}

#[test]
fn how_large_rows_are_is_not_forgotten_with_the_rows() {
    let limits = WindowLimits { max_jobs: 10_000, page_size: 1_000, ..LIMITS };
    let mut window = fresh(WindowLimits { max_bytes: 600_000, ..limits });
    let mut page = normal_page(&mut window);
    page.limit = 2;
    // 50,000 and 70,000 bytes: their mean counts.
    window.apply_page(page, vec![sized(50_000, normal(1, 1)), sized(70_000, normal(2, 2))]);
    window.forget(SHARD);
    let normal = window.wanted_pages().into_iter().find(|page| page.priority == Priority::Normal);
    assert_eq!(normal.unwrap().limit, 200_000 / (60_000 + size_of::<Job>()));
}

#[test]
fn what_comes_before_the_first_that_fell_out_still_waits_for_the_page() {
    // The page was read before 4 was there, and yet moves the mark past it.
    let mut window = fresh(WindowLimits { max_jobs: 2, ..LIMITS });
    let page = normal_page(&mut window);
    admit(&mut window, vec![normal(1, 1), normal(2, 2), normal(3, 3)]);
    admit(&mut window, vec![normal(4, 0)]);
    window.apply_page(page, Vec::new());
    assert_eq!(take(&mut window, 9), [4, 1]);
    assert!(normal_page(&mut window).after < normal(2, 2).key());
}

#[test]
fn an_empty_list_gets_a_row_though_none_fits() {
    let mut window = fresh(WindowLimits { max_bytes: size_of::<Job>(), ..LIMITS });
    let pages = limits_of_pages(&mut window);
    assert_eq!(pages.iter().map(|(_, limit)| *limit).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn the_first_page_is_small_and_what_it_shows_of_rows_holds_for_other_lists() {
    let limits = WindowLimits { max_jobs: 10_000, page_size: 1_000, ..LIMITS };
    let mut window = fresh(WindowLimits { max_bytes: 600_000, ..limits });
    let mut pages = limits_of_pages(&mut window);
    assert_eq!(pages.iter().map(|(_, limit)| *limit).collect::<Vec<_>>(), [8, 8, 8]);
    let (mut page, _) = pages.remove(0);
    page.limit = 1;
    window.apply_page(page, vec![sized(50_000, numbered(1, Priority::High, 1))]);
    let (other, _) = pages.remove(0);
    window.page_failed(other);
    let of_other = |page: &PageRequest| page.priority == Priority::Normal;
    let page = window.wanted_pages().into_iter().find(of_other).unwrap();
    assert!(page.limit < 8, "{} rows", page.limit);
}

#[test]
fn a_bound_in_bytes_that_is_lowered_is_kept_at_once() {
    let size = normal(1, 1).size();
    let mut window = of_empty_table(WindowLimits { max_jobs: 1_000, ..LIMITS });
    admit(&mut window, many(100, Priority::Normal));
    assert_eq!(window.expected_bytes(), 100 * size);
    window.set_max_bytes(50 * size);
    assert_eq!(window.figures().jobs, 49, "and a little more");
    window.set_max_bytes(0);
    assert_eq!(window.figures().jobs, 1, "a list holds one in any case");
    assert!(window.wanted_pages().is_empty(), "there is no room for more");
}

#[test]
fn jobs_are_taken_until_they_have_enough_bytes() {
    let size = normal(1, 1).size();
    let mut window = of_empty_table(WindowLimits { max_jobs: 1_000, ..LIMITS });
    admit(&mut window, many(10, Priority::Normal));
    assert_eq!(window.take_due(i64::MAX, room(usize::MAX, 0), |_| true).len(), 0);
    assert_eq!(window.take_due(i64::MAX, room(usize::MAX, 1), |_| true).len(), 1);
    assert_eq!(window.take_due(i64::MAX, room(usize::MAX, 3 * size), |_| true).len(), 3);
    assert_eq!(window.take_due(i64::MAX, room(usize::MAX, 3 * size + 1), |_| true).len(), 4);
    assert_eq!(window.take_due(i64::MAX, room(1, usize::MAX), |_| true).len(), 1);
}
