//! The command `dead-letters`: letters of real records and of a real job are listed, shown,
//! corrected and discarded, and old ones are deleted.

mod post;
mod replayed;
mod old;

use std::time::Duration;

use infinite_scheduler::model::audit::AuditAction;
use infinite_scheduler::store::{
    Change, LetterCursor, LetterFilter, LetterState, Lookup, Store, Told,
};
use serde_json::{Value, json};

use self::post::{BULK, Post};
use crate::support::fixture::audit_entry;
use crate::support::services::Database;
use crate::support::wait_until;

const DEADLINE: Duration = Duration::from_secs(60);
const DAY_MS: i64 = 86_400_000;

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_by_filter_and_shown_whole_on_sqlite() {
    letters_are_listed_by_filter_and_shown_whole(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_by_filter_and_shown_whole_on_mariadb() {
    letters_are_listed_by_filter_and_shown_whole(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_by_filter_and_shown_whole_on_mysql() {
    letters_are_listed_by_filter_and_shown_whole(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_by_filter_and_shown_whole_on_postgres() {
    letters_are_listed_by_filter_and_shown_whole(Database::Postgres).await;
}

async fn letters_are_listed_by_filter_and_shown_whole(database: Database) {
    let post = Post::delivered(database).await;
    every_letter_is_listed_once_newest_first(&post).await;
    filters_find_what_they_say(&post).await;
    a_table_says_how_many_more_there_are(&post).await;
    a_letter_is_shown_whole(&post).await;
    replays_are_shown_as_a_chain(&post).await;
}

async fn every_letter_is_listed_once_newest_first(post: &Post) {
    // More than are read at once.
    let all = post.list(&["--limit", "100000"]).await;
    assert_eq!(all.len(), post.count().await, "each letter once");
    let places: Vec<_> = all.iter().map(place).collect();
    assert!(places.is_sorted_by(|newer, older| newer > older), "newest first");
    let first = post.list(&["--limit", "3"]).await;
    assert_eq!(first, all[..3], "the newest of them");
}

/// Also while letters come: what is read page by page has neither gaps nor repeats.
#[tokio::test(flavor = "multi_thread")]
async fn pages_neither_skip_nor_repeat_a_letter_though_another_comes() {
    for backend in Database::all() {
        let post = Post::delivered(backend).await;
        let store = post.store().await;
        let filter = LetterFilter { kind: Some("invalid-json".into()), ..LetterFilter::default() };
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = store.letters(&filter, after, 37).await.expect("a page");
            seen.extend(page.letters.iter().map(|letter| letter.id));
            pages += 1;
            if pages == 2 {
                post.copy_of("invalid-json", "created_ms + 100000").await;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((seen.len(), pages), (BULK, BULK.div_ceil(37)), "{backend:?}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), BULK, "{backend:?}: each once");
        store.close().await;
    }
}

async fn filters_find_what_they_say(post: &Post) {
    let newest: Value = post.list(&["--limit", "1"]).await.remove(0);
    let newest = newest["createdTime"].as_str().expect("a time").to_owned();
    for (filters, meant) in [
        (&["--kind", "invalid-json"][..], BULK),
        (&["--kind", "invalid"], 0),
        (&["--app", "calls"], 1),
        (&["--app", "call_"], 0),
        (&["--app", "calls", "--kind", "missing-field"], 0),
        (&["--kind", "attempts-exhausted"], 1),
        // Wildcards are text, and the case of letters is none.
        (&["--contains", "50%_OFF"], 1),
        (&["--contains", "50%_off"], 1),
        (&["--contains", "IS NOT A TIME"], 2),
        (&["--contains", "50__OFF"], 0),
        (&["--contains", "50%OFF"], 0),
        (&["--contains", "!"], 1),
        (&["--contains", "!é"], 1),
        (&["--from", "1h", "--kind", "invalid-json"], BULK),
        (&["--to", "1h"], 0),
        (&["--from", &newest], post.count_at(&newest).await),
        (&["--state", "parked"], 0),
        (&["--state", "replayed,discarded"], 0),
        (&["--state", "all", "--kind", "invalid-json"], BULK),
    ] {
        let filters = [filters, &["--limit", "100000"]].concat();
        assert_eq!(post.list(&filters).await.len(), meant, "{filters:?}");
    }
    for (filters, said) in [
        (&["--from", "yesterday"][..], "as in 2h"),
        (&["--from", "1h", "--to", "2h"], "must be before"),
        (&["--contains", ""], "--contains"),
        (&["--limit", "0"], "--limit"),
    ] {
        let (code, _, error) = post.command("list", filters).await;
        assert_eq!(code, 2, "{filters:?}: {error}");
        assert!(error.contains(said), "{filters:?}: {error}");
    }
}

async fn a_table_says_how_many_more_there_are(post: &Post) {
    let (code, table, rest) = post.command("list", &["--kind", "invalid-json"]).await;
    assert_eq!(code, 0, "{rest}");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 51, "a heading and as many as are shown by default: {table}");
    for name in ["id", "since", "state", "kind", "app", "request", "attempts", "message"] {
        assert!(lines[0].contains(name), "{table}");
    }
    assert!(rest.contains("50 of ") && rest.contains("--limit"), "{rest}");
    let id = lines[1].split(' ').next().expect("an id");
    let (code, shown, _) = post.command("show", &[id]).await;
    assert_eq!(code, 0, "what stands in the table names a letter");
    assert!(shown.contains(id), "{shown}");
    let (code, table, rest) = post.command("list", &["--app", "nobody"]).await;
    assert_eq!((code, table.as_str()), (0, ""), "{rest}");
    assert!(rest.contains("no dead letter"), "{rest}");
}

async fn a_letter_is_shown_whole(post: &Post) {
    let binary = post.show("empty-key").await;
    assert_eq!(binary["state"], "dead");
    assert_eq!(binary["kind"], "invalid-encoding");
    assert_eq!(binary["key"], json!({"hex": "00ff"}));
    assert_eq!(binary["value"], json!({"hex": "ff00fe"}));
    assert_eq!(binary["headers"], json!([["plain", "text"], ["binary", {"hex": "ff00"}]]));
    assert_eq!(binary["topic"], post.world.topic.as_str());
    assert_eq!((&binary["partition"], &binary["attempts"]), (&json!(0), &json!(1)));
    assert_eq!(binary["published"], true);

    let job = post.show("attempts-exhausted").await;
    assert_eq!((&job["appName"], &job["requestId"]), (&json!("calls"), &json!("fails")));
    assert_eq!(job["attempts"], 2);
    assert!(
        job["jobId"].is_string() && job["message"].as_str().is_some_and(|m| m.contains("busy"))
    );
    let fired: Value = serde_json::from_str(job["value"].as_str().expect("text")).expect("a body");
    assert_eq!(fired["jobData"], json!({"callTo": "+49"}));

    let large = post.id_of("large").await;
    let (_, shown, _) = post.command("show", &[&large]).await;
    assert!(shown.contains("add --full") && shown.len() < 8192, "{shown}");
    let (_, shown, _) = post.command("show", &[&large, "--full"]).await;
    assert!(!shown.contains("add --full") && shown.len() > 100_000);
    let large = post.show("large").await;
    assert!(large["value"].as_str().is_some_and(|value| value.len() > 100_000));

    for (id, code, said) in [
        ("0198c0d", 2, "first 8"),
        ("not-an-id", 2, "hexadecimal"),
        ("00000000-0000-0000-0000-000000000000", 3, "there is no dead letter"),
    ] {
        let (was, _, error) = post.command("show", &[id]).await;
        assert_eq!(was, code, "{error}");
        assert!(error.contains(said), "{error}");
    }
}

/// The links are those that a replay writes: from each letter to the one before.
async fn replays_are_shown_as_a_chain(post: &Post) {
    let first = post.id_of("bulk-0000").await;
    let second = post.copy_of("bulk-0000", "created_ms + 1").await;
    let third = post.copy_of("bulk-0000", "created_ms + 2").await;
    post.set(&first, "state = 2").await;
    post.set(&second, &format!("state = 2, replays = 1, replay_of = {}", post.literal(&first)))
        .await;
    post.set(&third, &format!("replays = 2, replay_of = {}", post.literal(&second))).await;
    let chain = json!([first, second, third]);
    for id in [&first, &second, &third] {
        let (_, shown, _) = post.command("show", &[id, "--json"]).await;
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["replayChain"], chain);
    }
    let (_, shown, _) = post.command("show", &[&second]).await;
    assert!(shown.contains(&format!("replay of   {first} (replayed)")), "{shown}");
    assert!(shown.contains(&format!("died again  {third} (dead)")), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_waits_to_be_published_as_long_as_it_is_in_the_outbox() {
    for backend in Database::all() {
        let post = Post::delivered(backend).await;
        let id = post.id_of("large").await;
        assert_eq!(post.show("large").await["published"], true, "{backend:?}");
        let outbox = format!(
            "insert into scheduler_outbox (ordering_key, letter) values (1, {})",
            post.literal(&id)
        );
        post.world.database.execute(&outbox).await;
        assert_eq!(post.show("large").await["published"], false, "{backend:?}");
        let (_, shown, _) = post.command("show", &[&id]).await;
        assert!(shown.contains("waits to be published"), "{backend:?}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_is_a_valid_request_kept_with_the_value_and_replaced_only_when_confirmed() {
    for backend in Database::all() {
        let post = Post::delivered(backend).await;
        let id = post.id_of("50%_OFF").await;
        let edit = async |options: &[&str]| {
            post.command("edit", &[&[id.as_str()][..], options].concat()).await
        };
        let good = r#"{"requestId":"t-1","appName":"sms","scheduledTime":0}"#;
        let before = post.show("50%_OFF").await;
        assert_eq!(before["correction"], Value::Null);
        for (options, code, said) in [
            (&[][..], 2, "--value"),
            (&["--value", good, "--clear"], 2, "cannot be used with"),
            (&["--value", "{"], 2, "the correction is refused"),
            (&["--value", r#"{"appName":"sms"}"#], 2, "scheduledTime"),
            (&["--file", "no-such-file.json"], 2, "no-such-file.json"),
            (&["--value", good, "--dry-run"], 0, "nothing was changed"),
        ] {
            let (was, out, error) = edit(options).await;
            assert_eq!(was, code, "{backend:?} {options:?}: {out}{error}");
            assert!(format!("{out}{error}").contains(said), "{options:?}: {out}{error}");
            assert_eq!(post.show("50%_OFF").await, before, "{backend:?} {options:?}");
        }
        assert_eq!(edit(&["--value", good]).await.0, 0);
        let after = post.show("50%_OFF").await;
        assert_eq!((&after["correction"], &after["corrected"]), (&json!(good), &json!(true)));
        assert_eq!(after["value"], before["value"], "the record's own is kept");

        let other = r#"{"appName":"sms","scheduledTime":1}"#;
        let (code, _, error) = edit(&["--value", other]).await;
        assert!(code == 1 && error.contains("--yes"), "{backend:?}: {error}");
        let (code, _, error) = edit(&["--value", other, "--dry-run"]).await;
        assert!(code == 1 && error.contains("--yes"), "{backend:?}: the same: {error}");
        let file = post.file("corrected.json", &format!("{other}\n"));
        assert_eq!(edit(&["--file", &file, "--yes"]).await.0, 0);
        assert_eq!(post.show("50%_OFF").await["correction"], other, "without the newline");
        assert_eq!(edit(&["--value", "not JSON", "--force", "--yes"]).await.0, 0);
        assert_eq!(post.show("50%_OFF").await["correction"], "not JSON");
        assert_eq!(edit(&["--clear"]).await.0, 1, "{backend:?}: what is there would be lost");
        assert_eq!(edit(&["--clear", "--yes"]).await.0, 0);
        assert_eq!(post.show("50%_OFF").await["correction"], Value::Null);
        for (state, said) in [(1, "parked"), (2, "replayed"), (3, "discarded")] {
            post.set(&id, &format!("state = {state}")).await;
            let (code, _, error) = edit(&["--value", good]).await;
            assert!(code == 3 && error.contains(said), "{backend:?} {state}: {error}");
            assert_eq!(post.show("50%_OFF").await["correction"], Value::Null);
        }
        of_two_that_read_the_same_letter_one_is_refused(&post).await;
    }
}

async fn of_two_that_read_the_same_letter_one_is_refused(post: &Post) {
    let (store, id) = (post.store().await, post.id_of("large").await);
    let seen = summary(&store, &id).await;
    let edit = audit_entry(AuditAction::EditDeadLetter, seen.changed_ms);
    let first = store.correct_letter(&seen, Some(b"{}".to_vec()), &edit).await;
    assert_eq!(first.expect("an answer"), Change::Made);
    let second = store.correct_letter(&seen, None, &edit).await.expect("an answer");
    assert!(matches!(second, Change::Refused(now) if now.corrected), "the first one stays");
    let discard = |_: &_| Told::audit(audit_entry(AuditAction::DiscardDeadLetter, 7));
    let stale = store.discard_letters(std::slice::from_ref(&seen), 7, discard).await;
    let stale = stale.expect("an answer");
    assert!(matches!(&stale[..], [Change::Refused(now)] if now.state() == LetterState::Dead));
    assert_eq!(summary(&store, &id).await.state(), LetterState::Dead);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_discarded_by_name_and_by_filter_and_a_dry_run_changes_nothing_on_sqlite() {
    letters_are_discarded_by_name_and_by_filter(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_discarded_by_name_and_by_filter_and_a_dry_run_changes_nothing_on_mariadb() {
    letters_are_discarded_by_name_and_by_filter(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_discarded_by_name_and_by_filter_and_a_dry_run_changes_nothing_on_mysql() {
    letters_are_discarded_by_name_and_by_filter(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_discarded_by_name_and_by_filter_and_a_dry_run_changes_nothing_on_postgres() {
    letters_are_discarded_by_name_and_by_filter(Database::Postgres).await;
}

async fn letters_are_discarded_by_name_and_by_filter(database: Database) {
    let post = Post::delivered(database).await;
    // The command works while an instance runs, also on its file.
    let running = post.world.builder().start().await.expect("a start");
    let all = &["--limit", "100000", "--state", "all"][..];
    let before = post.list(all).await;
    let (job, large) = (post.id_of("attempts-exhausted").await, post.id_of("large").await);
    for (options, code, said) in [
        (&[][..], 2, "say which letters"),
        (&[&job, "--app", "sms"], 2, "not both"),
        (&["--all", "--dry-run", "--yes"], 2, "cannot be used with"),
        (&[&job, "--dry-run"], 0, "would be discarded"),
        (&[&job, "00000000"], 3, "there is no dead letter"),
        (&["--kind", "invalid-json"], 1, "--yes"),
        (&["--kind", "invalid-json", "--dry-run"], 0, "nothing was changed"),
        (&["--contains", "50__OFF", "--yes"], 0, "no dead letter is like that"),
        (&["--to", "1h", "--yes"], 0, "no dead letter is like that"),
    ] {
        let (was, out, error) = post.command("discard", options).await;
        assert_eq!(was, code, "{options:?}: {out}{error}");
        assert!(format!("{out}{error}").contains(said), "{options:?}: {out}{error}");
        assert_eq!(post.list(all).await, before, "{options:?} changes nothing");
    }
    let (_, out, _) = post.command("discard", &["--all", "--dry-run"]).await;
    for said in ["invalid-json", "missing-field", "invalid-encoding", "attempts-exhausted"] {
        assert!(out.contains(said), "{said} is counted in {out}");
    }

    let (code, out, error) = post.command("discard", &[&job, &large[..13]]).await;
    assert_eq!(code, 0, "{out}{error}");
    assert_eq!(post.states().await, [before.len() - 2, 0, 0, 2]);
    assert!(post.list(&["--app", "calls"]).await.is_empty(), "not among what is to be seen to");
    assert_eq!(post.command("discard", &[&job]).await.0, 0, "it is, already");

    let (parked, replayed) = (post.id_of("bulk-0001").await, post.id_of("bulk-0002").await);
    post.set(&parked, "state = 1, due_ms = 1893484800000").await;
    post.set(&replayed, "state = 2").await;
    for (id, said) in
        [(&parked, "parked"), (&parked, "2030-01-01T08:00:00Z"), (&replayed, "replayed")]
    {
        for options in [&[id.as_str()][..], &[id, "--dry-run"]] {
            let (code, out, _) = post.command("discard", options).await;
            assert!(code == 1 && out.contains(said), "{options:?}: {out}");
        }
    }
    let (code, out, _) = post.command("discard", &["--kind", "invalid-json", "--yes"]).await;
    let left = BULK - 2;
    assert_eq!(code, 0, "{out}");
    assert!(out.contains(&format!("{left} dead letters discarded")), "{out}");
    assert_eq!(post.states().await, [before.len() - 2 - BULK, 1, 1, 2 + left]);
    let (code, out, _) = post.command("discard", &["--all", "--yes"]).await;
    assert_eq!(code, 0, "{out}");
    assert_eq!(post.states().await, [0, 1, 1, before.len() - 2]);
    running.shutdown(Duration::from_secs(10)).await;
}

/// Neither makes a database, nor takes half of what it printed for all.
#[tokio::test(flavor = "multi_thread")]
async fn reading_makes_no_file_and_output_that_is_lost_is_a_failure() {
    let post = Post::delivered(Database::Sqlite).await;
    let full = post.command_to("/dev/full", "list", &["--json"]).await;
    assert_eq!(full.0, 1, "{}", full.2);
    assert!(full.2.contains("standard output cannot be written"), "{}", full.2);
    let missing = post.file("missing.toml", "[database]\nurl = \"sqlite://missing.db?mode=rwc\"");
    let (code, _, error) = post.command("list", &["--config", &missing]).await;
    assert!(code == 2 && error.contains("missing.db"), "{code}: {error}");
    assert!(!std::path::Path::new(&missing).with_file_name("missing.db").exists());
}

/// The letters' places in their order, of which ids are the second part.
fn place(letter: &Value) -> (String, String) {
    let text = |name: &str| letter[name].as_str().expect("text").to_owned();
    (text("createdTime"), text("id"))
}

async fn summary(store: &Store, id: &str) -> infinite_scheduler::store::LetterSummary {
    match store.find_letter(&id.parse().expect("an id")).await.expect("an answer") {
        Lookup::Found(letter) => (&*letter).into(),
        other => panic!("{id}: {other:?}"),
    }
}
