//! Asking by the command line, and reading what it prints.

use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Surroundings;
use super::asks::{Ask, Edit, Filter, REASON, Seek, WHO, comparable_audit};
use crate::support::services::temporary_folder;

/// The command with a configuration.
pub(super) struct CommandLine {
    folder: TempDir,
}

impl CommandLine {
    pub(super) fn new(surroundings: &Surroundings) -> Self {
        let folder = temporary_folder();
        let file = folder.path().join("infinite-scheduler.toml");
        std::fs::write(file, surroundings.world.config()).expect("a configuration file");
        Self { folder }
    }

    pub(super) async fn ask(&self, ask: &Ask, surroundings: &Surroundings) -> Value {
        match ask {
            Ask::List(filter) => {
                self.json("dead-letters list --json --state all", &of(filter)).await
            }
            Ask::Show(letter) => {
                self.json("dead-letters show --json", &[surroundings.id(letter)]).await
            }
            Ask::Edit(edit) => self.edit(edit, surroundings).await,
            Ask::Replay { letters, dry_run } => {
                self.each("replay", "replayed", letters, *dry_run, surroundings).await
            }
            Ask::Discard { letters, dry_run } => {
                self.each("discard", "discarded", letters, *dry_run, surroundings).await
            }
            Ask::DiscardAll { kind, dry_run } => self.discard_all(kind, *dry_run).await,
            Ask::Submit(requests) => self.submit(requests).await,
            Ask::Status(request) => {
                self.json("requests --json --app sms", &["--request", request]).await
            }
            Ask::Apps => self.json("apps --json", &[]).await["items"].take(),
            Ask::Pause { app, refuse } => {
                let mut arguments = vec![*app];
                arguments.extend(refuse.then_some("--refuse-requests"));
                self.change("apps pause", &arguments).await
            }
            Ask::Resume(app) => self.change("apps resume", &[app]).await,
            Ask::DeleteApp(app) => self.change("apps delete", &[app]).await,
            Ask::Drain(instance) => self.change("instances drain", &[instance]).await,
            Ask::PauseIngest => self.change("ingest pause", &[]).await,
            Ask::ResumeIngest => self.change("ingest resume", &[]).await,
            Ask::Audit => {
                let mut answer = self.json("audit --json", &["--who", WHO]).await;
                comparable_audit(answer["items"].take())
            }
            Ask::Positions => self.json("ingest --json", &[]).await,
            Ask::Seek(seek) => self.seek(seek).await,
            Ask::SeekForeignTopic => {
                self.json("ingest seek --json --to-end --yes", &["--topic", "foreign"]).await
            }
        }
    }

    async fn edit(&self, edit: &Edit, surroundings: &Surroundings) -> Value {
        let mut arguments = vec![surroundings.id(edit.letter)];
        match edit.correction {
            Some(correction) => arguments.extend(["--value", correction]),
            None => arguments.push("--clear"),
        }
        arguments.extend(edit.replace.then_some("--yes"));
        arguments.extend(edit.dry_run.then_some("--dry-run"));
        let output = self.run("dead-letters edit", &arguments).await;
        if !output.status.success() {
            let mut sentence = sentence(&output);
            // What belongs to the command line alone: which option is the way out.
            for (before, after) in [
                ("the correction is refused: ", "; --force takes it all the same"),
                ("nothing was changed: ", ": add --yes to replace or remove it"),
            ] {
                sentence = sentence.trim_start_matches(before).trim_end_matches(after).to_owned();
            }
            return json!({ "error": sentence });
        }
        let said = text(&output.stdout);
        let said = said.trim().trim_start_matches("nothing was changed (--dry-run); else: ");
        json!({ "edited": said })
    }

    /// The line of each letter: `0198c0de-1234: not replayed: why`.
    async fn each(
        &self,
        verb: &str,
        done: &str,
        letters: &[&str],
        dry_run: bool,
        surroundings: &Surroundings,
    ) -> Value {
        let mut arguments: Vec<&str> = letters.iter().map(|word| surroundings.id(word)).collect();
        arguments.extend(dry_run.then_some("--dry-run"));
        let output = self.run(&format!("dead-letters {verb}"), &arguments).await;
        let said = text(&output.stdout);
        if said.is_empty() {
            return json!({ "error": sentence(&output) });
        }
        let line = |(word, line): (&&str, &str)| {
            let (short, rest) = line.split_once(": ").expect("an id");
            assert!(surroundings.id(word).starts_with(short), "{line}");
            let rest = rest.trim_start_matches("would be ").replace("would not be ", "not ");
            match rest.strip_prefix(&format!("not {done}: ")) {
                Some(why) => json!({ "error": why }),
                None => json!({ done: rest.trim_start_matches(done).trim() }),
            }
        };
        letters.iter().zip(said.lines()).map(line).collect()
    }

    /// `2 dead letters would be discarded, 1 not`
    async fn discard_all(&self, kind: &str, dry_run: bool) -> Value {
        let way = if dry_run { "--dry-run" } else { "--yes" };
        let output = self.run("dead-letters discard", &["--kind", kind, way]).await;
        let said = text(&output.stdout);
        if said.contains("no dead letter is like that") {
            return json!({ "matched": 0, "done": 0, "failed": 0 });
        }
        let number = |text: &str| -> u64 {
            text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
        };
        let summary = said.lines().find(|line| line.contains("discarded")).expect("a summary");
        let (done, failed) = summary.split_once(", ").unwrap_or((summary, "0"));
        let matched = number(said.lines().next().expect("a count"));
        json!({ "matched": matched, "done": number(done), "failed": number(failed) })
    }

    async fn submit(&self, requests: &[&str]) -> Value {
        let file = self.folder.path().join("requests.jsonl");
        std::fs::write(&file, requests.join("\n")).expect("a file");
        let output = self.run("submit --direct", &[&file.display().to_string()]).await;
        let said = text(&output.stdout);
        let lines = said.lines().filter_map(|line| line.strip_prefix("line "));
        let answers: Vec<&str> =
            lines.filter_map(|line| line.split_once(": ")).map(|it| it.1).collect();
        assert_eq!(answers.len(), requests.len(), "{said}{}", text(&output.stderr));
        json!(answers)
    }

    async fn seek(&self, seek: &Seek) -> Value {
        let mut arguments = match seek.to {
            "end" => vec!["--to-end"],
            offset => vec!["--to-offset", offset],
        };
        let partitions: Vec<String> = seek.partitions.iter().map(i32::to_string).collect();
        arguments.extend(partitions.iter().flat_map(|number| ["--partition", number.as_str()]));
        arguments.push(if seek.dry_run { "--dry-run" } else { "--yes" });
        self.json("ingest seek --json", &arguments).await
    }

    async fn change(&self, command: &str, arguments: &[&str]) -> Value {
        let author = ["--json", "--by", WHO, "--reason", REASON];
        self.json(command, &[arguments, &author].concat()).await
    }

    /// What the command prints as JSON, or its sentence.
    async fn json(&self, command: &str, arguments: &[&str]) -> Value {
        let output = self.run(command, arguments).await;
        match serde_json::from_slice(&output.stdout) {
            Ok(answer) => answer,
            Err(_) => json!({ "error": sentence(&output) }),
        }
    }

    async fn run(&self, command: &str, arguments: &[&str]) -> Output {
        let mut process = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
        process.args(command.split(' ')).args(arguments).current_dir(self.folder.path());
        let done = tokio::task::spawn_blocking(move || process.output());
        done.await.expect("no panic").expect("the binary")
    }
}

fn of(filter: &Filter) -> Vec<&'static str> {
    let Filter { app, kind, contains, times } = filter;
    let named = [("--app", app), ("--kind", kind), ("--contains", contains)];
    let mut arguments: Vec<&str> =
        named.into_iter().filter_map(|(name, value)| Some([name, (*value)?])).flatten().collect();
    if times.is_some() {
        // The only times that the table has.
        assert_eq!(*times, Some((2, 1)));
        arguments.extend(["--from", "2", "--to", "1"]);
    }
    arguments
}

/// What the command says of its failure.
fn sentence(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(&output.stdout));
    let said = text(&output.stderr);
    let sentence = said.lines().find_map(|line| line.strip_prefix("infinite-scheduler: "));
    sentence.unwrap_or_else(|| panic!("{said}{}", text(&output.stdout))).to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
