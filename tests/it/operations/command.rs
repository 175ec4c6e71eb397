//! Operations called by the command line, whose output is parsed.

use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::asks::{Ask, Edit, Filter, REASON, Seek, WHO, comparable_audit, comparable_bulk};
use super::{DEADLINE, Surroundings};
use crate::support::services::temporary_folder;
use crate::support::wait_until;

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
                self.list("dead-letters list --json --state all", &of(filter)).await
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
            Ask::Jobs(pairs) => {
                let named: Vec<_> = pairs.iter().map(|(name, _)| format!("--{name}")).collect();
                let values = pairs.iter().map(|(_, value)| *value);
                let arguments: Vec<&str> =
                    named.iter().zip(values).flat_map(|(name, value)| [name, value]).collect();
                let mut answer = self.list("jobs list --json", &arguments).await;
                // Only the command line has options.
                if let Some(why) = answer["error"].as_str().and_then(|why| why.strip_prefix("--")) {
                    answer = json!({ "error": why });
                }
                answer
            }
            Ask::Bulk { action, with, filter, dry_run } => {
                let named = with.iter().chain(*filter);
                let named =
                    named.map(|(name, value)| (name.replace("errorKind", "error-kind"), value));
                let named: Vec<String> = named
                    .flat_map(|(name, value)| [format!("--{name}"), value.to_string()])
                    .collect();
                let mut arguments: Vec<&str> = named.iter().map(String::as_str).collect();
                arguments.push(if *dry_run { "--dry-run" } else { "--yes" });
                self.bulk(action, &arguments, *dry_run).await
            }
            Ask::Apps => self.list("apps --json", &[]).await,
            Ask::ShowJob(job) => self.json("jobs show --json --app sms", &["--request", job]).await,
            Ask::CancelJob(job) => self.change("jobs cancel --app sms", &["--request", job]).await,
            Ask::RunJob(job) => self.change("jobs run --app sms", &["--request", job]).await,
            Ask::Reschedule { job, to } => {
                self.change("jobs reschedule --app sms", &["--request", job, "--to", to]).await
            }
            Ask::EditJob { job, priority, max_attempts } => {
                let fields = ["--priority", *priority, "--max-attempts", *max_attempts];
                let arguments = ["--request", *job].into_iter().chain(fields).collect::<Vec<_>>();
                self.change("jobs edit --app sms", &arguments).await
            }
            Ask::Operation(id) => self.json("operations show --json", &[&id.to_string()]).await,
            Ask::Pause { app, refuse } => {
                let mut arguments = vec![*app];
                arguments.extend(refuse.then_some("--refuse-requests"));
                self.change("apps pause", &arguments).await
            }
            Ask::Resume(app) => self.change("apps resume", &[app]).await,
            Ask::SetLimits { app, options, .. } => {
                let arguments: Vec<&str> =
                    [*app].into_iter().chain(options.iter().copied()).collect();
                self.change("apps set", &arguments).await
            }
            Ask::ResetLimits(app) => self.change("apps reset", &[app]).await,
            Ask::DeleteApp(app) => self.change("apps delete", &[app]).await,
            Ask::Drain(instance) => self.change("instances drain", &[instance]).await,
            Ask::PauseIngest => self.change("ingest pause", &[]).await,
            Ask::ResumeIngest => self.change("ingest resume", &[]).await,
            Ask::Audit => comparable_audit(self.list("audit --json", &["--who", WHO]).await),
            Ask::Positions => self.positions().await,
            Ask::Seek(seek) => self.seek(seek).await,
            Ask::SeekForeignTopic => {
                self.json("ingest seek --json --to-end --yes", &["--topic", "foreign"]).await
            }
        }
    }

    async fn bulk(&self, action: &str, arguments: &[&str], dry_run: bool) -> Value {
        let begun = self.change(&format!("bulk {action}"), arguments).await;
        let Some(id) = begun["id"].as_i64().filter(|_| !dry_run) else { return begun };
        let id = id.to_string();
        wait_until(DEADLINE, "the end of a bulk action", async || {
            let item = self.json("bulk show --json", &[&id]).await;
            ["finished", "stopped"].contains(&item["state"].as_str().expect("a state"))
        })
        .await;
        comparable_bulk(&self.json("bulk show --json", &[&id]).await)
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
            // Only the command line names the option that allows it.
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

    /// The answer for each letter: `{"replayed": "as job .."}` or `{"error": ".."}`.
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
        let items = self.json(&format!("dead-letters {verb} --json"), &arguments).await;
        let Some(items) = items["items"].as_array() else { return items };
        let answer = |(word, item): (&&str, &Value)| {
            assert_eq!(item["id"], surroundings.id(word), "{item}");
            if let Some(why) = item["error"].as_str() {
                return json!({ "error": why });
            }
            let how = match (item["jobId"].as_str(), item["duplicateOf"].as_str()) {
                (Some(job), Some(of)) => format!("as a duplicate of request {of:?}, job {job}"),
                (Some(job), None) => format!("as job {job}"),
                (None, _) => String::new(),
            };
            json!({ done: how })
        };
        letters.iter().zip(items).map(answer).collect()
    }

    async fn discard_all(&self, kind: &str, dry_run: bool) -> Value {
        let way = if dry_run { "--dry-run" } else { "--yes" };
        let answer = self.json("dead-letters discard --json", &["--kind", kind, way]).await;
        let [matched, done, failed] = ["matched", "done", "failed"].map(|name| &answer[name]);
        json!({ "matched": matched, "done": done, "failed": failed })
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

    /// The items of a list, or the command's sentence.
    async fn list(&self, command: &str, arguments: &[&str]) -> Value {
        let mut list = self.json(command, arguments).await;
        match list.get_mut("items") {
            Some(items) => {
                let items = items.take();
                assert_eq!(list["next"], Value::Null, "everything is on one page");
                items
            }
            None => list,
        }
    }

    /// The list of partitions in the form of `Positions`.
    async fn positions(&self) -> Value {
        let mut list = self.json("ingest --json", &[]).await;
        let partitions = list["items"].take();
        json!({
            "group": list["group"],
            "missing": list["missing"],
            "pause": list["pause"],
            "partitions": partitions,
        })
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
