//! `jobs list`: what it prints for people and for programs, and what it refuses.

use std::process::{Command, Output};

use infinite_scheduler::ScheduleJobRequest;
use serde_json::{Value, json};

use super::{DRAIN, connect, many_jobs, start};
use crate::support::services::{Database, TestDatabase, temporary_folder};

/// The command on a database, with Berlin's time.
async fn command(database: &TestDatabase, arguments: &[&str], columns: Option<&str>) -> Output {
    let folder = temporary_folder();
    let url = database.url();
    let config =
        format!("default_time_zone = \"Europe/Berlin\"\n[database]\nurl = \"{url}\"\n[apps.sms]\n");
    std::fs::write(folder.path().join("infinite-scheduler.toml"), config).expect("a file");
    let mut process = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
    process.args(["jobs", "list"]).args(arguments).current_dir(folder.path());
    process.env_remove("COLUMNS");
    if let Some(columns) = columns {
        process.env("COLUMNS", columns);
    }
    let done = tokio::task::spawn_blocking(move || process.output()).await;
    done.expect("no panic").expect("the binary")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_lists_for_people_and_for_programs() {
    let database = Database::Postgres.fresh().await;
    start(&database).await.shutdown(DRAIN).await;
    let list = async |arguments: &[&str], columns| {
        let output = command(&database, arguments, columns).await;
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let (out, _) = list(&["--json"], None).await;
    let empty: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(empty, json!({ "items": [], "next": null }));
    assert_eq!(list(&["--jsonl"], None).await.0, "{\"end\":true}\n");
    assert_eq!(list(&[], None).await.0, "");

    many_jobs(&database, 3).await;
    let wide = "名前".repeat(20);
    let operations = connect(&database).await;
    for (id, at) in
        [(wide.as_str(), "2027-03-27T23:00:00Z"), ("\u{202e}x\u{9b}", "2027-03-28T22:00:00Z")]
    {
        let request = ScheduleJobRequest::builder("sms").request_id(id).at(at).build();
        operations.jobs().schedule(request.expect("a request")).await.expect("a job");
    }
    operations.close().await;
    let (out, error) =
        list(&["--from", "2027-03-28 00:00", "--to", "2027-03-29 00:00"], None).await;
    assert!(out.contains(&wide) && out.lines().count() == 2, "{out}");
    assert!(
        error.contains(
            "--from 2027-03-28T00:00:00, read in Europe/Berlin, is 2027-03-27T23:00:00.000Z"
        ),
        "{error}"
    );
    assert!(error.contains("is 2027-03-28T22:00:00.000Z"), "{error}");
    let (out, error) = list(&[], Some("40")).await;
    assert!(error.contains("columns left out for lack of room: due, request"), "{error}");
    for line in out.lines() {
        assert!(line.chars().count() <= 40 && !line.contains('\u{1b}'), "{line}");
    }
    assert!(out.lines().skip(1).all(|line| line.trim_end().len() == 36), "ids are whole: {out}");
    let (out, _) = list(&[], None).await;
    assert!(out.contains("\\u{202e}x\\u{9b}") && !out.contains('\u{202e}'), "{out}");

    // A list for a program is continued by its cursor.
    let (out, _) = list(&["--json", "--limit", "2"], None).await;
    let first: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(first["items"].as_array().map(Vec::len), Some(2));
    let next = first["next"].as_str().expect("a cursor");
    let (out, _) = list(&["--jsonl", "--cursor", next], None).await;
    assert_eq!(out.lines().count(), 4, "{out}");
    assert!(out.ends_with("{\"end\":true}\n"), "{out}");
    let job: Value = serde_json::from_str(out.lines().next().expect("a job")).expect("JSON");
    assert_eq!(job["dueTime"], "2030-01-01T00:00:00.000Z");
    assert_eq!(job["jobData"], json!({ "n": 0 }));
    let (out, error) = list(&["--data", "/n=2", "--json"], None).await;
    assert!(error.contains("5 jobs were read"), "{error}");
    let found: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(found["items"][0]["requestId"], "m-2");

    for (arguments, said) in [
        (&["--app", "SMS"][..], "--app is \"SMS\""),
        (&["--app", ""], "--app is empty"),
        (&["--app", "sns"], "did you mean sms?"),
        (&["--state", "scheduld"], "did you mean scheduled?"),
        (&["--state", ""], "--state is empty"),
        (&["--from", "yesterday"], "is not a time"),
        (&["--data", "/a"], "POINTER=JSON"),
        (&["--data", "/a=x"], "a text needs quotes"),
        (&["--cursor", "x"], "cursor is not one of this list"),
        (&["--app", "sms", "--app", "sipcall"], "cannot be used multiple times"),
        (&["--limit", "0"], "0 is not in"),
        (&["--json", "--cursor", next, "--app", "sms"], "cursor is not one of this list"),
    ] {
        let output = command(&database, arguments, None).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{arguments:?}: {}", text(&output.stdout));
    }
}
