//! Identifiers are compared byte for byte, by the database as well: MariaDB and MySQL have
//! collations that ignore spaces at the end of a text.

use infinite_scheduler::model::ids::{JobId, Offset, Partition};
use infinite_scheduler::model::letter::DeadLetter;
use infinite_scheduler::model::record::RawRecord;
use infinite_scheduler::store::{Admitted, Entry, LedgerKey, LetterFilter, RequestStatus, Store};
use infinite_scheduler::{AppConfig, JobData};

use crate::support::fixture::Fixture;
use crate::support::services::Database;

/// Names that some collation takes for `x`.
const ALIKE: [&str; 5] = ["x ", "x  ", "X", "x\u{a0}", "ｘ"];

/// A dead letter of this request, which came as the record at this offset.
fn letter(fixture: &Fixture, request_id: &str, offset: i64) -> Entry {
    let record = RawRecord { offset: Offset(offset), ..(*fixture.record).clone() };
    let mut refusal = fixture.letter(1).refusal();
    refusal.request_id = Some(request_id.into());
    refusal.message = format!("that of {request_id:?}");
    Entry::Letter(Box::new(DeadLetter::of_record(&record, refusal, 1_000 + offset)))
}

async fn message_of(store: &Store, request_id: &str) -> String {
    match store.status_of("sms", request_id).await.expect("an answer") {
        RequestStatus::Rejected { message, .. } => message,
        other => panic!("{request_id:?}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_names_that_are_nearly_alike_do_not_hide_one_another() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = Fixture::new(&database).await;
        // More of each than a page may have.
        let newer = ALIKE.iter().flat_map(|name| [*name; 25]);
        for (offset, name) in ["x"].into_iter().chain(newer).enumerate() {
            let offset = offset as i64;
            let entry = letter(&fixture, name, offset);
            let admitted = fixture.admit(fixture.records(offset), entry).await;
            assert!(matches!(admitted, Admitted::Done(_)), "{backend:?}: {admitted:?}");
        }
        for name in ["x"].into_iter().chain(ALIKE) {
            let meant = format!("that of {name:?}");
            assert_eq!(message_of(&fixture.store, name).await, meant, "{backend:?}");
        }
        let unknown = fixture.store.status_of("sms ", "x").await.expect("an answer");
        assert_eq!(unknown, RequestStatus::Unknown, "{backend:?}");
        let of_app = |app: &str| LetterFilter { app: Some(app.into()), ..LetterFilter::default() };
        for (app, any) in [("sms", true), ("sms ", false), ("SMS", false)] {
            let page = fixture.store.letters(&of_app(app), None, 1).await.expect("a page");
            assert_eq!(!page.letters.is_empty(), any, "{backend:?}: {app:?}");
        }
        fixture.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_topics_and_apps_that_are_nearly_alike_have_rows_of_their_own() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = Fixture::new(&database).await;
        let key = |group: &str, topic: &str| LedgerKey {
            cluster: "c".into(),
            group: group.into(),
            topic: topic.into(),
            partition: Partition(0),
        };
        let mut rows = vec![fixture.ledger.id];
        for key in [key("g ", "t"), key("G", "t"), key("g", "t "), key("g", "T")] {
            fixture.store.open_ledger(&key, Offset(0)).await.expect("a row");
            let row = fixture.store.find_ledger(&key).await.expect("an answer").expect("the row");
            assert!(!rows.contains(&row.id), "{backend:?}: {key:?}");
            rows.push(row.id);
        }
        for alike in ["SMS", "sms "] {
            let app = fixture.store.register_app(&AppConfig::new(alike), 0).await.expect("a row");
            assert_ne!(app.id, fixture.app.id, "{backend:?}: {alike:?}");
        }
        fixture.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_whose_names_are_nearly_alike_are_different_jobs() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = Fixture::new(&database).await;
        for (offset, name) in ["x"].into_iter().chain(ALIKE).enumerate() {
            let Entry::Job(mut candidate) = fixture.job() else { panic!("not a job") };
            candidate.job.id = JobId::derive("sms", name);
            candidate.job.request_id = name.into();
            candidate.job.data = JobData::from_trusted(r#"{"t":"cut \ud83d","n":1e400}"#);
            let entry = Entry::Job(candidate);
            let admitted = fixture.admit(fixture.records(offset as i64), entry).await;
            let accepted = format!("{admitted:?}");
            assert!(accepted.contains("Accepted"), "{backend:?}: {name:?}: {accepted}");
            let status = fixture.store.status_of("sms", name).await.expect("an answer");
            assert!(matches!(status, RequestStatus::Accepted { .. }), "{backend:?}: {status:?}");
        }
        fixture.store.close().await;
    }
}
