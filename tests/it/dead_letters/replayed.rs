//! Letters that the command replays, and what its dry run predicts.

use std::time::Duration;

use super::DEADLINE;
use super::post::Post;
use crate::support::services::Database;
use crate::support::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_replayed_by_name_and_by_filter_and_a_dry_run_says_what_of() {
    for database in Database::all() {
        let post = Post::delivered(database).await;
        let running = post.world.builder().start().await.expect("a start");
        let check = async |options: &[&str], code, said: &str| {
            let (was, out, error) = post.command("replay", options).await;
            assert_eq!(was, code, "{database:?} {options:?}: {out}{error}");
            assert!(out.contains(said), "{database:?} {options:?}: {out}{error}");
        };
        let before = post.states().await;
        let bulk = post.id_of("bulk-0001").await;
        check(&[&bulk, "--dry-run"], 1, "would not be replayed: the value is not JSON").await;
        check(&[&bulk], 1, "not replayed: the value is not JSON").await;
        check(&["--kind", "invalid-json", "--dry-run"], 1, "0 dead letters would be replayed")
            .await;
        check(&["--app", "calls"], 1, "nothing was changed: add --yes to replay them").await;
        assert_eq!(post.states().await, before, "{database:?}: nothing was changed");

        let good = r#"{"appName":"sms","scheduledTime":0,"requestId":"mended"}"#;
        let (code, out, error) = post.command("edit", &[&bulk, "--value", good]).await;
        assert_eq!(code, 0, "{out}{error}");
        check(&[&bulk, "--dry-run"], 0, "would be replayed as job").await;
        assert_eq!(post.states().await, before, "{database:?}: nothing was changed");
        check(&[&bulk], 0, "replayed as job").await;
        wait_until(DEADLINE, "the replay to fire", async || {
            running.ingest_metrics().apps["sms"].succeeded == 1
        })
        .await;
        check(&[&bulk], 1, "not replayed: it was replayed as job").await;

        conflicts_among_the_selected_are_foreseen(&post).await;
        what_is_too_large_is_not_replayed_either(&post).await;
        // Nobody has that app just now: its job waits.
        check(&["--app", "calls", "--dry-run"], 0, "1 dead letter would be replayed").await;
        check(&["--app", "calls", "--yes"], 0, "1 dead letter replayed").await;
        let jobs = post
            .world
            .database
            .count("select count(*) from scheduler_job where letter is not null");
        assert_eq!(jobs.await, 1, "{database:?}");
        let [dead, _, replayed, _] = post.states().await;
        assert_eq!((dead, replayed), (before[0] - 3, 3), "{database:?}");
        running.shutdown(Duration::from_secs(10)).await;
    }
}

/// Each alone would become a job; the first of them takes the name.
async fn conflicts_among_the_selected_are_foreseen(post: &Post) {
    let mut ids = Vec::new();
    for (bulk, data) in [("bulk-0002", 1), ("bulk-0003", 2)] {
        let id = post.id_of(bulk).await;
        let request = format!(
            r#"{{"appName":"sms","scheduledTime":1999999999999,"requestId":"twice\u009b","jobData":{{"n":{data}}}}}"#
        );
        let (code, out, error) = post.command("edit", &[&id, "--value", &request]).await;
        assert_eq!(code, 0, "{out}{error}");
        ids.push(id);
    }
    for (options, done, not) in [
        (&["--dry-run"][..], "would be replayed as job", "would not be replayed: requestId"),
        (&[], "replayed as job", "not replayed: requestId"),
    ] {
        let asked: Vec<&str> =
            ids.iter().map(String::as_str).chain(options.iter().copied()).collect();
        let (code, out, error) = post.command("replay", &asked).await;
        assert_eq!(code, 1, "{options:?}: {out}{error}");
        assert!(out.contains(done) && out.contains(not), "{options:?}: {out}{error}");
        assert!(!out.contains('\u{9b}'), "a producer's text steers no terminal: {out:?}");
    }
    post.world.database.execute("delete from scheduler_job where request_id like 'twice%'").await;
}

async fn what_is_too_large_is_not_replayed_either(post: &Post) {
    let id = post.id_of("bulk-0004").await;
    let data = "x".repeat(1 << 20);
    let large = format!(r#"{{"appName":"sms","scheduledTime":0,"jobData":{{"data":"{data}"}}}}"#);
    let file = post.file("large.json", &large);
    let (code, out, error) = post.command("edit", &[&id, "--file", &file, "--force"]).await;
    assert_eq!(code, 0, "{out}{error}");
    for options in [&["--dry-run"][..], &[]] {
        let (code, out, error) = post.command("replay", &[&[id.as_str()], options].concat()).await;
        assert!(code == 1 && out.contains("max_record_bytes"), "{options:?}: {out}{error}");
    }
}
