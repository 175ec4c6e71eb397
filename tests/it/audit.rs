//! The audit: each change has its entry, what was not changed has none, and entries are kept for
//! as long as they are to be.

use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::model::ids::{Offset, Partition};
use infinite_scheduler::operations::{
    AuditAction, AuditFilter, AuditItem, AuditSource, By, Edit, LetterAction, LetterFilter,
    LetterName, LetterSelection, Operations, PageRequest, Seek, SeekTo,
};
use uuid::Uuid;

use crate::support::kafka::{RawRecord, produce};
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(90);
const MENDED: &str =
    r#"{"requestId":"mended","appName":"sms","scheduledTime":"2031-01-01T00:00:00Z"}"#;

async fn audit(operations: &Operations, filter: &AuditFilter) -> Vec<AuditItem> {
    operations.audit().list(filter, &PageRequest::default()).await.expect("the audit").items
}

/// The letter whose record begins with `word`.
async fn letter(operations: &Operations, word: &str) -> Uuid {
    let letters =
        operations.dead_letters().list(&LetterFilter::default(), &PageRequest::default()).await;
    for letter in letters.expect("letters").items {
        let shown = operations.dead_letters().show(&letter.id.into()).await.expect("a letter");
        if shown.value.is_some_and(|value| value.starts_with(word.as_bytes())) {
            return letter.id;
        }
    }
    panic!("no letter begins with {word}")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_has_its_entry_and_what_was_not_changed_has_none() {
    for database in Database::all() {
        let world = World::new(database, 1).await;
        let scheduler = world.builder().start().await.expect("a start");
        let records = ["one", "two", "three"].map(|word| RawRecord::new(0, word));
        produce(&world.topic, &records).await;
        wait_until(DEADLINE, "the letters", async || {
            scheduler.ingest_metrics().messages_sent_to_dlq == 3
        })
        .await;
        scheduler.shutdown(DEADLINE).await;
        let all = world.operations().await;
        assert_eq!(audit(&all, &AuditFilter::default()).await, [], "{database:?}: nothing yet");

        let (one, two, three) =
            (letter(&all, "one").await, letter(&all, "two").await, letter(&all, "three").await);
        let anna = all.by(By::new("anna").because("a test").through(AuditSource::Http));
        let mended = Edit { correction: Some(MENDED.into()), ..Edit::default() };
        let name: LetterName = one.into();
        let dry = Edit { dry_run: true, ..mended.clone() };
        anna.dead_letters().edit(&name, dry).await.expect("a dry run");
        anna.dead_letters().edit(&name, mended.clone()).await.expect("an edit");
        anna.dead_letters().edit(&name, mended).await.expect_err("another correction");
        anna.dead_letters().replay(two, None).await.expect_err("no request");
        anna.dead_letters().replay(one, None).await.expect("a replay");
        anna.dead_letters().replay(one, None).await.expect_err("replayed before");
        let letters = LetterSelection::Named(vec![one.into(), two.into(), three.into()]);
        let discard = anna.dead_letters();
        discard.apply(LetterAction::Discard, &letters, true, |_, _| {}).await.expect("dry");
        discard.apply(LetterAction::Discard, &letters, false, |_, _| {}).await.expect("done");
        let seek = |to, dry_run| Seek { to, topic: None, partitions: vec![Partition(0)], dry_run };
        all.ingest().seek(seek(SeekTo::Offset(Offset(1)), true)).await.expect("a dry run");
        all.ingest().seek(seek(SeekTo::Offset(Offset(1)), false)).await.expect("a seek");
        all.apps().resume("sms").await.expect("no news");

        let entries = audit(&all, &AuditFilter::default()).await;
        let said: Vec<(&str, &str, &str)> =
            entries.iter().map(|entry| (&*entry.action, &*entry.subject, &*entry.who)).collect();
        let (one, two, three) = (one.to_string(), two.to_string(), three.to_string());
        let partition = format!("{}/0", world.topic);
        let expected = [
            ("ingest.seek", &*partition, "program"),
            ("dead-letter.discard", &*three, "anna"),
            ("dead-letter.discard", &*two, "anna"),
            ("dead-letter.replay", &*one, "anna"),
            ("dead-letter.edit", &*one, "anna"),
        ];
        assert_eq!(said, expected, "{database:?}: newest first");
        for entry in entries.iter().filter(|entry| entry.who == "anna") {
            let shown = (&*entry.source, entry.reason.as_deref(), entry.count);
            assert_eq!(shown, ("http", Some("a test"), 1), "{database:?}");
        }
        assert_eq!(entries[0].details["from"], 3, "{database:?}");
        assert_eq!(entries[0].details["to"], 1, "{database:?}");
        assert!(entries[3].details["jobId"].is_string(), "{database:?}: {:?}", entries[3]);
        assert_eq!(entries[3].app_name.as_deref(), Some("sms"), "{database:?}");

        for (filter, count) in [
            (AuditFilter { who: Some("anna".into()), ..AuditFilter::default() }, 4),
            (AuditFilter { who: Some("Anna".into()), ..AuditFilter::default() }, 0),
            (AuditFilter { source: Some(AuditSource::Handle), ..AuditFilter::default() }, 1),
            (AuditFilter { subject: Some(one.clone()), ..AuditFilter::default() }, 2),
            (AuditFilter { app: Some("sms".into()), ..AuditFilter::default() }, 1),
            (
                AuditFilter {
                    action: Some(AuditAction::DiscardDeadLetter),
                    ..AuditFilter::default()
                },
                2,
            ),
            (AuditFilter { to_ms: Some(entries[4].at_ms), ..AuditFilter::default() }, 0),
            (AuditFilter { from_ms: Some(entries[4].at_ms), ..AuditFilter::default() }, 5),
        ] {
            assert_eq!(audit(&all, &filter).await.len(), count, "{database:?}: {filter:?}");
        }
        let (mut wanted, mut paged) = (PageRequest { limit: 2, cursor: None }, Vec::new());
        loop {
            let page = all.audit().list(&AuditFilter::default(), &wanted).await.expect("a page");
            paged.extend(page.items);
            wanted.cursor = page.next;
            if wanted.cursor.is_none() {
                break;
            }
        }
        assert_eq!(paged, entries, "{database:?}: page by page");
        all.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_and_ended_bulk_actions_are_removed_when_they_were_kept_for_long_enough() {
    for database in Database::all() {
        let world = World::new(database, 1).await;
        let start = async || {
            let builder = world.builder().keep_audit(Duration::from_secs(3600));
            builder.start().await.expect("a start")
        };
        start().await.shutdown(DEADLINE).await;
        let now_ms = SystemClock.now_ms();
        // More than one step removes.
        let rows = |at_ms: i64, count: usize| {
            let row = format!("({at_ms}, 'a', 'cli', 'app.pause', 'sms', '{{}}', 1)");
            format!(
                "insert into scheduler_audit (at_ms, who, source, action, subject, details, count) \
                 values {}",
                vec![row; count].join(", ")
            )
        };
        world.database.execute(&rows(now_ms - 3_600_000, 1100)).await;
        world.database.execute(&rows(now_ms, 7)).await;
        // An old one that has ended, and a new one.
        for (id, created_ms) in [(1, now_ms - 3_600_000), (2, now_ms)] {
            let bulk = format!(
                "insert into scheduler_bulk (id, action, args, filter, who, source, state, matched, \
                 done, failed, treated, created_ms, changed_ms) \
                 values ({id}, 'cancel', '{{}}', '{{}}', 'a', 'cli', 4, 0, 0, 0, 0, {created_ms}, 0)"
            );
            world.database.execute(&bulk).await;
        }
        let scheduler = start().await;
        wait_until(DEADLINE, "the end of what is old", async || {
            world.database.count("select count(*) from scheduler_audit").await == 7
                && world.database.count("select count(*) from scheduler_bulk").await == 1
        })
        .await;
        scheduler.shutdown(DEADLINE).await;
    }
}
