//! Admissions whose tickets come late, twice, from another window or never.

use super::*;

#[test]
fn a_slow_ticket_does_not_bring_the_row_from_before_a_retry() {
    let mut window = fresh(LIMITS);
    let ticket = window.take_ticket();
    let mut page = normal_page(&mut window);
    page.limit = 2;
    window.apply_page(page, vec![normal(1, 5), normal(2, 9)]);
    take(&mut window, 5);
    window.put_back(normal(1, 20));
    window.return_ticket(ticket, vec![normal(1, 5)]);
    assert_eq!(take(&mut window, 9), [2]);
    look_up(&mut window, &[1], vec![normal(1, 20)]);
    assert!(take(&mut window, 30).is_empty());
    let page = normal_page(&mut window);
    window.apply_page(page, vec![normal(1, 20)]);
    assert_eq!(take(&mut window, 30), [1]);
}

#[test]
fn a_slow_ticket_does_not_bring_back_what_a_page_brought_and_fired() {
    let mut window = fresh(LIMITS);
    let ticket = window.take_ticket();
    let page = normal_page(&mut window);
    window.apply_page(page, vec![normal(1, 5)]);
    assert_eq!(take(&mut window, 5), [1]);
    window.finished(id_of(1));
    window.return_ticket(ticket, vec![normal(1, 5)]);
    assert!(take(&mut window, 9).is_empty());
    look_up(&mut window, &[1], Vec::new());
}

#[test]
fn a_request_that_comes_again_before_its_end_is_confirmed_is_not_lost() {
    // The delete is committed, the same id is admitted again, and the window hears of the
    // two in either order.
    let again = normal(1, 6);
    for confirmed_first in [true, false] {
        let mut window = of_empty_table(LIMITS);
        admit(&mut window, vec![normal(1, 5)]);
        take(&mut window, 5);
        let ticket = window.take_ticket();
        if confirmed_first {
            window.finished(id_of(1));
            window.return_ticket(ticket, vec![again.clone()]);
        } else {
            window.return_ticket(ticket, vec![again.clone()]);
            window.finished(id_of(1));
        }
        look_up(&mut window, &[1], vec![again.clone()]);
        assert_eq!(take(&mut window, 6), [1]);
    }
}

#[test]
fn a_tombstone_does_not_stop_what_was_admitted_after_it() {
    let mut window = of_empty_table(LIMITS);
    let older = window.take_ticket();
    admit(&mut window, vec![normal(1, 5)]);
    take(&mut window, 5);
    window.finished(id_of(1));
    admit(&mut window, vec![normal(1, 7)]);
    assert_eq!(take(&mut window, 7), [1]);
    window.return_ticket(older, Vec::new());
}

#[test]
fn a_lost_ticket_has_its_shards_read_again() {
    let mut window = of_empty_table(LIMITS);
    admit(&mut window, vec![normal(1, 5), normal(2, 9)]);
    take(&mut window, 5);
    let ticket = window.take_ticket();
    window.drop_ticket(ticket, &[SHARD]);
    let page = normal_page(&mut window);
    window.apply_page(page, vec![normal(1, 5), normal(2, 9), normal(3, 9)]);
    assert_eq!(take(&mut window, 9), [2, 3]);
}

#[test]
fn a_predecessors_ticket_is_looked_up() {
    let mut predecessor = of_empty_table(LIMITS);
    let ticket = predecessor.take_ticket();
    let mut window = of_empty_table(LIMITS);
    window.return_ticket(ticket, vec![normal(1, 5), normal(2, 5)]);
    assert!(take(&mut window, 9).is_empty());
    look_up(&mut window, &[2, 1], vec![normal(2, 5)]);
    assert_eq!(take(&mut window, 9), [2]);
}

#[test]
fn a_ticket_that_is_returned_twice_does_not_bring_its_job_twice() {
    let mut window = of_empty_table(LIMITS);
    let ticket = window.take_ticket();
    window.return_ticket(ticket, vec![normal(1, 5)]);
    assert_eq!(take(&mut window, 9), [1]);
    window.finished(id_of(1));
    window.return_ticket(ticket, vec![normal(1, 5)]);
    assert!(take(&mut window, 9).is_empty());
    look_up(&mut window, &[1], Vec::new());
}
