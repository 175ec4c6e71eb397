//! All properties hold, and without any one guard a property is violated.

use super::super::{finds, holds};
use super::*;

const SMALL: Ledger = Ledger {
    guards: ALL,
    readers: 2,
    faults: 1,
    rebalances: 1,
    zombie_claims: 1,
    failovers: 0,
    seeks: 0,
};

#[test]
fn every_record_is_processed_once_whatever_readers_do() {
    holds("ledger: lost answers and crashes", Ledger { faults: 2, zombie_claims: 0, ..SMALL });
    holds("ledger: a zombie that claims", SMALL);
    holds("ledger: three readers", Ledger { readers: 3, faults: 0, rebalances: 2, ..SMALL });
}

#[test]
fn every_record_is_processed_once_though_the_database_fails_over_without_its_last_commit() {
    holds("ledger: failover", Ledger { zombie_claims: 0, failovers: 1, ..SMALL });
}

#[test]
fn every_record_is_processed_once_since_the_row_was_set_back() {
    holds("ledger: a seek", Ledger { zombie_claims: 0, seeks: 1, ..SMALL });
}

#[test]
fn a_seek_that_does_not_wait_is_followed_by_the_commit_of_a_reader() {
    let guards = Guards { claim_waits: false, ..ALL };
    let one = Ledger { readers: 1, faults: 0, rebalances: 0, zombie_claims: 0, seeks: 1, ..SMALL };
    finds(LATE, Ledger { guards, ..one });
}

#[test]
fn a_reader_that_does_not_look_around_stays_behind_a_seek() {
    let guards = Guards { readers_look_around: false, ..ALL };
    finds(QUIET, Ledger { guards, faults: 0, zombie_claims: 0, seeks: 1, ..SMALL });
}

#[test]
fn without_the_token_a_zombie_still_commits() {
    finds(LATE, Ledger { guards: Guards { compare_token: false, ..ALL }, ..SMALL });
}

#[test]
fn without_the_offset_a_failover_leaves_a_gap() {
    let guards = Guards { compare_offset: false, ..ALL };
    finds(DECIDED, Ledger { guards, failovers: 1, ..SMALL });
}

#[test]
fn a_claim_that_does_not_wait_is_followed_by_the_commit_of_another() {
    finds(LATE, Ledger { guards: Guards { claim_waits: false, ..ALL }, ..SMALL });
}

/// The comparison of offsets makes up for a row that was read too early: the first batch is
/// fenced, and the row read again. So either of the two may be missing, if no commit is ever
/// undone, but not both.
#[test]
fn a_row_that_was_read_before_the_claim_does_harm_only_without_the_offset() {
    let early = Guards { read_row_after_claim: false, ..ALL };
    holds("ledger: row read before the claim", Ledger { guards: early, ..SMALL });
    let no_offset = Guards { compare_offset: false, ..ALL };
    holds("ledger: no comparison of offsets", Ledger { guards: no_offset, ..SMALL });
    let neither = Guards { compare_offset: false, ..early };
    finds(ONCE, Ledger { guards: neither, ..SMALL });
}

#[test]
fn an_end_of_the_log_from_before_the_claim_looks_like_a_topic_made_again() {
    finds(ONCE, Ledger { guards: Guards { read_end_after_claim: false, ..ALL }, ..SMALL });
}

#[test]
fn without_a_fresh_token_a_batch_is_written_after_it_was_given_up() {
    finds(GIVEN_UP, Ledger { guards: Guards { reclaim_after_outage: false, ..ALL }, ..SMALL });
}

#[test]
fn a_token_taken_over_from_the_row_may_be_that_of_another_reader() {
    let guards = Guards { reclaim_keeps_own_token: false, ..ALL };
    finds(SHARED, Ledger { guards, ..SMALL });
}

#[test]
fn an_offset_moved_by_itself_is_ahead_of_its_records() {
    finds(DECIDED, Ledger { guards: Guards { one_transaction: false, ..ALL }, ..SMALL });
}

#[test]
fn without_the_unique_key_a_key_has_two_jobs() {
    finds(ONE_JOB, Ledger { guards: Guards { unique_key: false, ..ALL }, ..SMALL });
}

#[test]
fn a_memory_that_decides_loses_a_job_whose_batch_was_undone() {
    finds(OF_A_JOB, Ledger { guards: Guards { memory_only_hints: false, ..ALL }, ..SMALL });
}
