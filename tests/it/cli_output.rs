//! What commands print for programs, on which stream they print it, and how they exit.

use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};

use infinite_scheduler::model::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::services::{Database, TestDatabase, kafka, temporary_folder};

/// The id of a letter that does not exist.
const NO_LETTER: &str = "00000000-0000-0000-0000-000000000000";

/// A SQLite file with tables, some dead letters and one app, and no instance that runs on it.
struct Fixture {
    database: TestDatabase,
    folder: TempDir,
}

impl Fixture {
    async fn new(letters: usize) -> Self {
        let database = Database::Sqlite.fresh().await;
        let folder = temporary_folder();
        let config = format!(
            "[database]\nurl = {:?}\n[kafka]\nbootstrap_servers = {:?}\ntopic = \"{}\"\n",
            database.url(),
            kafka(),
            database.name(),
        );
        std::fs::write(folder.path().join("infinite-scheduler.toml"), config).expect("a file");
        let fixture = Self { database, folder };
        assert_eq!(fixture.run(&["migrate"]).await.status.code(), Some(0));
        let now_ms = SystemClock.now_ms();
        for number in 0..letters {
            let row = format!(
                "insert into scheduler_dead_letter (id, kind, message, headers, attempts, \
                 created_ms) values (x'0198c0de00007000800000000000{number:04x}', 'invalid-json', \
                 'it is not JSON', '[]', 1, {})",
                now_ms - number as i64
            );
            fixture.database.execute(&row).await;
        }
        fixture
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        run(self.command(arguments)).await
    }

    /// Runs a command that must print one JSON document and nothing else on standard output.
    async fn document(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.run(arguments).await;
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}{errors}");
        let document = serde_json::from_str(&printed);
        document.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {printed}"))
    }
}

async fn run(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.expect("no panic").expect("the binary")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_is_a_document_too() {
    let fixture = Fixture::new(0).await;
    let empty = json!({ "items": [], "next": null });
    assert_eq!(fixture.document(&["apps", "--json"], 0).await, empty);
    assert_eq!(fixture.document(&["dead-letters", "list", "--json"], 0).await, empty);
    for action in ["replay", "discard"] {
        let answer = fixture.document(&["dead-letters", action, "--all", "--json"], 0).await;
        let meant = json!({
            "items": [], "next": null, "action": action, "dryRun": false, "matched": 0, "done": 0,
            "failed": 0,
        });
        assert_eq!(answer, meant);
    }
    // The topic does not exist, which the document says as well.
    let ingest = fixture.document(&["ingest", "--json"], 1).await;
    assert_eq!([&ingest["items"], &ingest["next"]], [&json!([]), &Value::Null], "{ingest}");
    assert!(ingest["missing"].as_str().is_some_and(|why| why.contains("does not exist")));
    for arguments in [&["apps", "--jsonl"][..], &["dead-letters", "list", "--jsonl"]] {
        let output = fixture.run(arguments).await;
        assert_eq!(text(&output.stdout), "{\"end\":true}\n", "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_on_at_its_cursor_until_there_is_none() {
    let fixture = Fixture::new(5).await;
    let mut ids = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..3 {
        let mut arguments = vec!["dead-letters", "list", "--limit", "2", "--json"];
        arguments.extend(cursor.iter().flat_map(|cursor| ["--cursor", cursor.as_str()]));
        let page = fixture.document(&arguments, 0).await;
        ids.extend(page["items"].as_array().expect("items").iter().map(|one| one["id"].clone()));
        cursor = page["next"].as_str().map(str::to_owned);
        assert_eq!(cursor.is_some(), ids.len() < 5, "{page}");
    }
    let all = fixture.document(&["dead-letters", "list", "--json"], 0).await;
    let all: Vec<Value> =
        all["items"].as_array().expect("items").iter().map(|one| one["id"].clone()).collect();
    assert_eq!((ids.len(), ids), (5, all));
    let lines = fixture.run(&["dead-letters", "list", "--jsonl"]).await;
    let lines = text(&lines.stdout);
    let lines: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 6);
    assert_eq!((&lines[5], &lines[0]["kind"]), (&json!({"end": true}), &json!("invalid-json")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_answers_with_each_letter_and_the_figures() {
    let fixture = Fixture::new(3).await;
    let filter = ["dead-letters", "discard", "--kind", "invalid-json", "--json"];
    let missing = fixture.document(&filter, 1).await;
    assert_eq!((&missing["matched"], &missing["done"]), (&json!(3), &json!(0)), "{missing}");
    assert_eq!(missing["items"], json!([]), "--yes is missing");
    let refused = fixture.run(&filter).await;
    assert!(text(&refused.stderr).contains("add --yes"), "{}", text(&refused.stderr));

    let first = "0198c0de-0000-7000-8000-000000000000";
    let dry = ["dead-letters", "replay", first, "--dry-run", "--json"];
    let dry = fixture.document(&dry, 1).await;
    let item = &dry["items"][0];
    assert_eq!([&item["id"], &item["result"]], [&json!(first), &json!("failed")], "{dry}");
    assert!(item["error"].is_string() && item["kind"].is_string(), "{dry}");
    assert_eq!([&dry["dryRun"], &dry["failed"]], [&json!(true), &json!(1)], "{dry}");

    let done = fixture.document(&["dead-letters", "discard", "--all", "--yes", "--json"], 0).await;
    let results: Vec<&Value> =
        done["items"].as_array().expect("items").iter().map(|one| &one["result"]).collect();
    assert_eq!(results, [&json!("discarded"); 3], "{done}");
    assert_eq!((&done["matched"], &done["done"]), (&json!(3), &json!(3)), "{done}");
    let again = fixture.run(&["dead-letters", "discard", first, "--jsonl"]).await;
    let lines = text(&again.stdout);
    assert_eq!((lines.lines().count(), lines.lines().last()), (2, Some("{\"end\":true}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_says_what_kind_of_answer_it_is() {
    let fixture = Fixture::new(1).await;
    let unknown = ["requests", "--app", "sms", "--request", "r", "--json"];
    assert_eq!(fixture.document(&unknown, 3).await, json!({ "status": "unknown" }));
    let unreachable = "[database]\nurl = \"postgres://nobody@127.0.0.1:1/none\"";
    std::fs::write(fixture.folder.path().join("unreachable.toml"), unreachable).expect("a file");
    let no_kafka = std::fs::read_to_string(fixture.folder.path().join("infinite-scheduler.toml"));
    let no_kafka = no_kafka.expect("a file").replace(&kafka(), "127.0.0.1:1");
    std::fs::write(fixture.folder.path().join("no-kafka.toml"), no_kafka).expect("a file");
    for (arguments, code) in [
        (&["dead-letters", "list"][..], 0),
        (&["dead-letters", "discard", "--all"], 1),
        (&["migrate", "--down"], 1),
        (&["dead-letters", "list", "--from", "yesterday"], 2),
        (&["dead-letters", "list", "--json", "--jsonl"], 2),
        (&["no-such-command"], 2),
        (&["apps", "--config", "no-such-file.toml"], 2),
        (&["dead-letters", "show", NO_LETTER, "--json"], 3),
        (&["dead-letters", "replay", NO_LETTER, "--json"], 3),
        (&["ingest", "seek", "--to-end", "--dry-run", "--config", "no-kafka.toml"], 4),
        (&["apps", "--json", "--config", "unreachable.toml"], 4),
    ] {
        let output = fixture.run(arguments).await;
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        if code > 1 {
            assert_eq!(text(&output.stdout), "", "{arguments:?}");
            assert!(!errors.is_empty(), "{arguments:?}");
        }
    }
    let help = text(&fixture.run(&["--help"]).await.stdout);
    for line in ["  1    ", "  2    ", "  3    ", "  4    ", "  130  "] {
        assert!(help.contains(line), "{help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_is_quiet_and_a_full_disk_is_a_failure() {
    let fixture = Fixture::new(700).await;
    for arguments in [
        &["dead-letters", "list", "--limit", "700", "--json"][..],
        &["dead-letters", "list", "--limit", "700"],
        &["apps", "--jsonl"],
        &["ingest", "seek", "--help"],
        &["--help"],
    ] {
        let mut command = fixture.command(arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        drop(child.stdout.take());
        let closed = tokio::task::spawn_blocking(move || child.wait_with_output());
        let closed = closed.await.expect("no panic").expect("an end");
        let errors = text(&closed.stderr);
        assert!(matches!(closed.status.code(), Some(0 | 141)), "{arguments:?}: {errors}");
        assert!(!errors.contains("standard output"), "{arguments:?}: {errors}");

        let mut command = fixture.command(arguments);
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let full = run({
            command.stdout(full);
            command
        });
        let full = full.await;
        let errors = text(&full.stderr);
        assert_eq!(full.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(errors.contains("standard output cannot be written"), "{arguments:?}: {errors}");
    }
}

/// Neither into a file or pipe, nor into a terminal whose user asks for none.
#[tokio::test(flavor = "multi_thread")]
async fn no_escape_sequences_are_printed_where_none_are_wanted() {
    let fixture = Fixture::new(2).await;
    for arguments in [
        &["--help"][..],
        &["dead-letters", "list"],
        &["dead-letters", "list", "--wrong"],
        &["apps"],
        &["apps", "--config", "no-such-file.toml"],
    ] {
        let output = fixture.run(arguments).await;
        let printed = [output.stdout, output.stderr].concat();
        assert!(!printed.contains(&0x1b), "{arguments:?}: {}", text(&printed));
        // `script` runs the command in a terminal of its own.
        let mut terminal = Command::new("script");
        let binary = env!("CARGO_BIN_EXE_infinite-scheduler");
        terminal.args(["-qec", &format!("{binary} {}", arguments.join(" ")), "/dev/null"]);
        terminal.current_dir(fixture.folder.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        let printed = run(terminal).await.stdout;
        assert!(!printed.is_empty(), "{arguments:?}");
        assert!(!printed.contains(&0x1b), "{arguments:?}: {}", text(&printed));
    }
}
