//! Which reader has a partition, and from which offset it reads.

use infinite_scheduler::model::audit::AuditAction;
use infinite_scheduler::model::ids::{InstanceId, Offset, Partition, ReaderToken};
use infinite_scheduler::store::{
    Admitted, Advance, BatchSource, Decision, Entry, LedgerKey, LedgerRow,
};

use super::{DEADLINE, SERVERS, await_held_up, batch, ground_on, hold, hold_up_insert, job, own};
use crate::support::fixture::{Fixture, audit_entry};
use crate::support::services::Database;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_counts_at_the_offset_of_the_row_and_under_its_token() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let fence = own(&fixture).await;
        let row = || async { fixture.store.read_ledger(fixture.ledger.id).await.expect("the row") };
        let right = Advance {
            ledger: fixture.ledger.id,
            reader: fixture.ledger.reader,
            expected: Offset(0),
            next: Offset(1),
            last: None,
        };
        let key = LedgerKey {
            cluster: "c".into(),
            group: "g".into(),
            topic: "t".into(),
            partition: Partition(0),
        };
        fixture.store.open_ledger(&key, Offset(7)).await.expect("no news: it was opened before");
        let letter = || Entry::Letter(Box::new(fixture.letter(1)));
        let foreign = ReaderToken(right.reader.0 ^ 1);
        for wrong in [
            Advance { reader: foreign, ..right },
            Advance { expected: Offset(1), next: Offset(2), ..right },
        ] {
            for entries in [vec![job(&fixture, "r")], vec![job(&fixture, "r"), letter()]] {
                let late = batch(BatchSource::Records(wrong), entries, vec![fence]);
                let answer = fixture.store.admit(&late).await.expect("an answer");
                assert_eq!(answer, Admitted::Fenced, "{backend:?}: {wrong:?}");
            }
        }
        let (id, reader) = (fixture.ledger.id, right.reader);
        let fresh = ReaderToken::random();
        let claimed = fixture.store.reclaim_ledger(id, foreign, fresh).await.expect("an answer");
        assert_eq!(claimed, None, "{backend:?}: the row has another token");
        let seen = row().await;
        assert_eq!((seen.reader, seen.next_offset), (reader, Offset(0)), "{backend:?}");
        for other in [
            LedgerRow { reader: foreign, ..seen.clone() },
            LedgerRow { next_offset: Offset(1), ..seen.clone() },
        ] {
            assert!(
                !fixture.store.move_ledger(&other, Offset(7)).await.expect("an answer"),
                "{backend:?}"
            );
            let fresh = ReaderToken::random();
            let entry = audit_entry(AuditAction::SeekIngest, 7);
            let moved = fixture.store.seek_ledger(&other, fresh, Offset(7), &entry).await;
            assert!(!moved.expect("an answer"), "{backend:?}: {other:?}");
            let audited = database.count("select count(*) from scheduler_audit").await;
            assert_eq!(audited, 0, "{backend:?}: {other:?}");
        }
        assert_eq!(row().await, seen, "{backend:?}");
        assert_eq!(database.count("select count(*) from scheduler_job").await, 0, "{backend:?}");
        fixture.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offset_moves_with_the_rows_or_not_at_all() {
    for backend in SERVERS {
        let database = backend.fresh().await;
        // By a lease of a few seconds, after which waits for a lock end.
        let fixture = Fixture::new(&database).await;
        let fence = own(&fixture).await;
        let seed = batch(fixture.records(0), vec![job(&fixture, "seed")], vec![fence]);
        fixture.store.admit(&seed).await.expect("an answer");
        let letter = || Entry::Letter(Box::new(fixture.letter(1)));
        for (offset, with) in (1..).zip([vec![], vec![letter()]]) {
            let name = format!("r-{offset}");
            let entries = [vec![job(&fixture, &name)], with].concat();
            let batch = batch(fixture.records(offset), entries, vec![fence]);
            let holder = hold_up_insert(&database, &name).await;
            fixture.store.admit(&batch).await.expect_err("no answer in time");
            let row = fixture.store.read_ledger(fixture.ledger.id).await.expect("the row");
            assert_eq!(row.next_offset, Offset(offset), "{backend:?}: {name}");
            holder.rollback().await.expect("a rollback");
            let answer = fixture.store.admit(&batch).await.expect("an answer");
            assert!(matches!(answer, Admitted::Done(_)), "{backend:?}: {answer:?}");
        }
        fixture.store.close().await;
    }
}

/// What a reader begins with is final for everybody who read before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_waits_for_the_batch_before_it_and_reads_what_that_left() {
    for backend in SERVERS {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let fence = own(&fixture).await;
        let seed = batch(fixture.records(0), vec![job(&fixture, "seed")], vec![fence]);
        fixture.store.admit(&seed).await.expect("an answer");
        let mut reader = fixture.ledger.reader;
        for (offset, again) in [(1, false), (2, true)] {
            let name = format!("r-{offset}");
            let advance = Advance {
                ledger: fixture.ledger.id,
                reader,
                expected: Offset(offset),
                next: Offset(offset + 1),
                last: None,
            };
            let batch =
                batch(BatchSource::Records(advance), vec![job(&fixture, &name)], vec![fence]);
            let holder = hold_up_insert(&database, &name).await;
            let store = fixture.store.clone();
            let admitting = tokio::spawn(async move { store.admit(&batch).await });
            await_held_up(&database, 1).await;
            let (store, id, fresh) =
                (fixture.store.clone(), fixture.ledger.id, ReaderToken::random());
            let claiming = tokio::spawn(async move {
                match again {
                    true => store.reclaim_ledger(id, reader, fresh).await,
                    false => store.claim_ledger(id, fresh, InstanceId(1)).await.map(Some),
                }
            });
            await_held_up(&database, 2).await;
            holder.rollback().await.expect("a rollback");
            let answer = admitting.await.expect("an end").expect("an answer");
            assert_eq!(answer, Admitted::Done(vec![Decision::Accepted]), "{backend:?}");
            let row = claiming.await.expect("an end").expect("an answer").expect("the row");
            assert_eq!((row.reader, row.next_offset), (fresh, Offset(offset + 1)), "{backend:?}");
            reader = fresh;
        }
        fixture.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_lock_longer_than_a_lease() {
    for backend in SERVERS {
        let database = backend.fresh().await;
        // By a lease of a few seconds.
        let fixture = Fixture::new(&database).await;
        let holder = hold(&database, "update scheduler_ingest_offset set records = records").await;
        let (id, fresh) = (fixture.ledger.id, ReaderToken::random());
        let claim = fixture.store.claim_ledger(id, fresh, InstanceId(1));
        let claimed = tokio::time::timeout(DEADLINE, claim).await.expect("an answer in time");
        let error = claimed.expect_err("no claim").to_string();
        assert!(error.to_lowercase().contains("timeout"), "{backend:?}: {error}");
        holder.rollback().await.expect("a rollback");
        fixture.store.close().await;
    }
}
