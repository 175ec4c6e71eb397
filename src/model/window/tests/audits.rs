//! What an audit takes in, what it leaves out, and what of it counts as missing; and how
//! many rows a look-up asks for.

use super::super::Audit;
use super::*;

/// An audit of the normal list, whose table is known up to its mark.
fn begun(window: &mut Window) -> Audit {
    window.audit(SHARD, Priority::Normal).unwrap()
}

#[test]
fn an_audit_does_not_count_what_a_ticket_or_a_look_up_may_still_bring() {
    let mut window = of_empty_table(LIMITS);
    let ticket = window.take_ticket();
    let audit = begun(&mut window);
    assert_eq!(window.apply_audit(audit, vec![normal(1, 5)]), 0);
    window.return_ticket(ticket, vec![normal(1, 5)]);
    assert_eq!(take(&mut window, 9), [1]);

    window.look_up(id_of(2));
    let audit = begun(&mut window);
    assert_eq!(window.apply_audit(audit, vec![normal(2, 5)]), 0);
    assert_eq!(take(&mut window, 9), [2]);
    window.look_up(id_of(3));
    let look_up = window.wanted_look_up(10).unwrap();
    let audit = begun(&mut window);
    assert_eq!(window.apply_audit(audit, vec![normal(3, 5)]), 0);
    window.apply_look_up(look_up, vec![normal(3, 5)]);
    assert_eq!(take(&mut window, 9), [3]);
}

#[test]
fn an_audit_counts_each_row_that_it_takes_in_while_a_page_or_an_audit_is_out() {
    let mut window = with_two(normal(1, 5), normal(2, 9));
    let page = normal_page(&mut window);
    let other = begun(&mut window);
    let audit = begun(&mut window);
    assert_eq!(window.apply_audit(audit, vec![normal(3, 6), normal(4, 7)]), 2);
    assert_eq!(window.apply_audit(other, Vec::new()), 0);
    window.apply_page(page, Vec::new());
    assert_eq!(take(&mut window, 9), [1, 3, 4, 2]);
}

#[test]
fn an_audit_takes_in_nothing_but_its_own_lists_rows_up_to_the_mark() {
    for stray in [
        normal(3, 10),
        job(3, SHARD.0, Priority::High, 6),
        job(3, SHARD.0 + 1, Priority::Normal, 6),
    ] {
        let mut window = with_two(normal(1, 5), normal(2, 9));
        window.add_shard(ShardId(SHARD.0 + 1), Epoch(1));
        let audit = begun(&mut window);
        assert_eq!(window.apply_audit(audit, vec![stray.clone()]), 0, "{stray:?}");
        assert_eq!(take(&mut window, 20), [1, 2], "{stray:?}");
    }
}

#[test]
fn an_audit_from_before_the_shard_was_away_is_ignored() {
    let mut window = of_empty_table(LIMITS);
    let audit = begun(&mut window);
    window.add_shard(SHARD, Epoch(2));
    for page in window.wanted_pages() {
        window.apply_page(page, Vec::new());
    }
    assert_eq!(window.apply_audit(audit, vec![normal(1, 5)]), 0);
    assert!(take(&mut window, 9).is_empty());
    assert!(window.audit(ShardId(9), Priority::Normal).is_none());
}

#[test]
fn a_look_up_asks_for_no_more_rows_than_it_may() {
    let mut window = of_empty_table(LIMITS);
    (1..=5).for_each(|id| window.look_up(id_of(id)));
    assert_eq!(window.figures().to_look_up, 5);
    let first = window.wanted_look_up(2).unwrap();
    assert_eq!((first.ids.len(), window.figures().to_look_up), (2, 3));
    let second = window.wanted_look_up(3).unwrap();
    assert_eq!(second.ids.len(), 3);
    assert_eq!(window.figures().outstanding, 2);
    window.apply_look_up(first, Vec::new());
    window.apply_look_up(second, Vec::new());
    assert_eq!(window.wanted_look_up(3), None);
    assert_eq!(window.figures().outstanding, 0);
}
