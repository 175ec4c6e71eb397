//! Rows that people and instances change concurrently, and rows that are deleted by age.

use infinite_scheduler::model::audit::AuditAction;
use infinite_scheduler::model::ids::KeyId;
use infinite_scheduler::store::{
    Admitted, BatchSource, Change, Decision, Entry, IdempotencyKey, KeyCursor, Told,
};

use super::{SERVERS, await_held_up, ground_on, hold};
use crate::support::fixture::audit_entry;
use crate::support::services::Database;

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_whose_record_is_read_twice_is_published_once() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        for offset in 0..2 {
            let letter = Entry::Letter(Box::new(fixture.letter(1)));
            let answer = fixture.admit(fixture.records(offset), letter).await;
            assert!(matches!(answer, Admitted::Done(_)), "{backend:?}: {answer:?}");
        }
        for table in ["scheduler_dead_letter", "scheduler_outbox"] {
            let rows = database.count(&format!("select count(*) from {table}")).await;
            assert_eq!(rows, 1, "{backend:?}: {table}");
        }
        fixture.store.close().await;
    }
}

/// Whatever else of the row is as it was read.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_parked_any_more_is_not_taken() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        fixture.admit(fixture.records(0), fixture.wait(1)).await;
        database.execute("update scheduler_dead_letter set state = 0").await;
        for entry in [fixture.job(), fixture.wait(2), Entry::Letter(Box::new(fixture.letter(2)))] {
            let answer = fixture.admit(fixture.parked(1), entry).await;
            assert_eq!(answer, Admitted::Fenced, "{backend:?}");
        }
        fixture.store.close().await;
    }
}

/// Two people who have read the letter, and one who has discarded or corrected it since.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_replayed_as_it_was_read_or_not_at_all() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let letter = fixture.letter(1);
        fixture.admit(fixture.records(0), Entry::Letter(Box::new(letter.clone()))).await;
        let replay = async |changed_ms| {
            let told = Told::audit(audit_entry(AuditAction::ReplayDeadLetter, 8));
            let source = BatchSource::Replay { letter: letter.id(), changed_ms, told };
            fixture.admit(source, fixture.job()).await
        };
        assert_eq!(replay(letter.at_ms - 1).await, Admitted::Fenced, "{backend:?}: changed since");
        for (state, outcome) in
            [(3, Admitted::Fenced), (0, Admitted::Done(vec![Decision::Accepted]))]
        {
            database.execute(&format!("update scheduler_dead_letter set state = {state}")).await;
            assert_eq!(replay(letter.at_ms).await, outcome, "{backend:?}: state {state}");
        }
        let audited = database.count("select count(*) from scheduler_audit").await;
        assert_eq!(audited, 1, "{backend:?}: the replay that was admitted");
        fixture.store.close().await;
    }
}

/// Whatever else of the row is as it was seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_not_dead_any_more_is_neither_corrected_nor_discarded() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let letter = fixture.letter(1);
        fixture.admit(fixture.records(0), Entry::Letter(Box::new(letter.clone()))).await;
        let see = async || {
            let letters = fixture.store.letters_by_id([letter.id()]).await.expect("an answer");
            letters.into_iter().next().expect("the letter")
        };
        let seen = see().await;
        database.execute("update scheduler_dead_letter set state = 2").await;
        let refused = Change::Refused(Box::new(see().await));
        let edit = audit_entry(AuditAction::EditDeadLetter, 9);
        let corrected = fixture.store.correct_letter(&seen, Some(b"{}".to_vec()), &edit).await;
        assert_eq!(corrected.expect("an answer"), refused, "{backend:?}");
        let discard = |_: &_| Told::audit(audit_entry(AuditAction::DiscardDeadLetter, 9));
        let discarded = fixture.store.discard_letters(&[seen], 9, discard).await;
        assert_eq!(discarded.expect("an answer"), [refused], "{backend:?}");
        let audited = database.count("select count(*) from scheduler_audit").await;
        assert_eq!(audited, 0, "{backend:?}: what was not done is not audited");
        fixture.store.close().await;
    }
}

/// The statement that deletes a letter compares it once more.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_it_is_swept_stays() {
    for backend in SERVERS {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let Entry::Job(mut candidate) = fixture.job() else { panic!("not a job") };
        let id = KeyId::derive("sms", "key");
        candidate.key = Some(IdempotencyKey { id, name: "key".into(), expires_ms: 1 });
        fixture.admit(fixture.records(0), Entry::Job(candidate)).await;
        fixture.admit(fixture.records(1), Entry::Letter(Box::new(fixture.letter(1)))).await;
        for done in ["scheduler_job", "scheduler_outbox"] {
            database.execute(&format!("delete from {done}")).await;
        }
        let later = i64::MAX / 4;
        for (table, change) in [
            ("scheduler_idempotency_key", format!("expires_ms = {later}")),
            ("scheduler_dead_letter", "state = 1".to_owned()),
            ("scheduler_dead_letter", format!("changed_ms = {later}")),
        ] {
            let holder = hold(&database, &format!("update {table} set {change}")).await;
            let store = fixture.store.clone();
            let sweeping = tokio::spawn(async move {
                match table {
                    "scheduler_dead_letter" => {
                        store.expire_letters(None, later / 2, false).await.map(|it| it.0)
                    }
                    _ => store.forget_keys(KeyCursor::default(), later / 2).await.map(|it| it.0),
                }
            });
            await_held_up(&database, 1).await;
            holder.commit().await.expect("a commit");
            let gone = sweeping.await.expect("an end").expect("a step");
            assert_eq!(gone, 0, "{backend:?}: {table}, {change}");
            database.execute("update scheduler_dead_letter set state = 0").await;
        }
        fixture.store.close().await;
    }
}
