//! Rows that a newer version has written: they are not misinterpreted.

use std::time::Duration;

use infinite_scheduler::{AppConfig, Discard, Scheduler, StartError};

use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::LEASE;

const DEADLINE: Duration = Duration::from_secs(60);

/// A command of an unknown kind, and one whose arguments cannot be decoded.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_an_unknown_kind_stays_for_who_knows_it_and_is_reported() {
    for database in Database::all() {
        let fresh = database.fresh().await;
        let builder = Scheduler::builder().database_url(fresh.url()).lease(LEASE);
        let builder = builder.register_app(AppConfig::new("sms"), Discard);
        let scheduler = builder.start().await.expect("a start");
        let insert = async |kind: &str, args: &str| {
            let insert = format!(
                "insert into scheduler_command (shard, kind, args, state, created_ms) \
                 select min(id), '{kind}', '{args}', 0, 0 from scheduler_shard"
            );
            fresh.execute(&insert).await;
        };
        insert("undo", "{}").await;
        insert("look", "{\"of\":\"a later form\"}").await;
        insert("look", "[]").await;
        let said = |scheduler: &Scheduler| {
            let sentences = scheduler.health().sentences();
            sentences.into_iter().find(|sentence| sentence.starts_with("commands: "))
        };
        wait_until(DEADLINE, "a report", async || {
            scheduler.ingest_metrics().commands_unknown == 2 && said(&scheduler).is_some()
        })
        .await;
        let left = "select count(*) from scheduler_command";
        wait_until(DEADLINE, "the known one carried out", async || fresh.count(left).await == 2)
            .await;
        let sentence = said(&scheduler).expect("a sentence");
        assert!(sentence.contains("1 of kind \"undo\""), "{database:?}: {sentence}");
        assert!(sentence.contains("1 of kind \"look\""), "{database:?}: {sentence}");
        assert!(scheduler.health().ready, "{database:?}: it goes on firing");
        // A later heartbeat takes what it knows and leaves them there again.
        insert("look", "[]").await;
        wait_until(DEADLINE, "the next one carried out", async || fresh.count(left).await == 2)
            .await;

        fresh.execute("delete from scheduler_command").await;
        wait_until(DEADLINE, "no report", async || said(&scheduler).is_none()).await;
        assert_eq!(scheduler.ingest_metrics().commands_unknown, 0, "{database:?}");
        scheduler.shutdown(DEADLINE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_whose_row_names_an_unknown_target_is_refused_by_a_sentence() {
    for database in Database::all() {
        let fresh = database.fresh().await;
        let start = async || {
            let builder = Scheduler::builder().database_url(fresh.url()).lease(LEASE);
            builder.register_app(AppConfig::new("sms"), Discard).start().await
        };
        start().await.expect("a start").shutdown(DEADLINE).await;
        let set = |target: &str| {
            format!("update scheduler_app set rules = '{{\"dispatch\":\"{target}\"}}'")
        };
        fresh.execute(&set("pigeon")).await;
        let refused = start().await.expect_err("a refusal");
        assert!(matches!(refused, StartError::Database(_)), "{database:?}: {refused:?}");
        let sentence = refused.to_string();
        for part in ["app sms", "\"pigeon\"", "does not know", "update this instance"] {
            assert!(sentence.contains(part), "{database:?}: {sentence}");
        }
        let kept = "select count(*) from scheduler_app where rules like '%pigeon%'";
        assert_eq!(fresh.count(kept).await, 1, "{database:?}: the row is as it was");
        fresh.execute(&set("log")).await;
        start().await.expect("a start").shutdown(DEADLINE).await;
    }
}
