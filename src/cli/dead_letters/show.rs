//! `dead-letters show`: everything about one letter.

use std::process::ExitCode;

use super::view;
use crate::cli::ConfigFile;
use crate::cli::output::{DocumentOption, document, grouped, say};
use crate::cli::session::Session;
use crate::operations::{LetterName, LetterState, LetterSummary, ShownLetter, rfc3339_s};

/// The bytes of a value that are shown without `--full`.
const SHOWN_BYTES: usize = 4096;

/// Shows everything about one dead letter
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler dead-letters show 0198c0de-1234
  infinite-scheduler dead-letters show 0198c0de-1234 --json | jq -r .value > value.json

Exit codes: 0 shown, 1 it failed, 2 it cannot work as it was asked, 3 there is no such letter, 4 the
database does not answer.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    /// Its id, or the first 8 digits or more of it
    #[arg(value_name = "ID")]
    letter: LetterName,
    /// The whole value, however large
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    form: DocumentOption,
}

pub(super) async fn run(session: &Session, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let letter = session.operations.dead_letters().show(&arguments.letter).await?;
    if arguments.form.json {
        document(&letter)?;
        return Ok(ExitCode::SUCCESS);
    }
    let most = if arguments.full { usize::MAX } else { SHOWN_BYTES };
    say(format_args!("dead letter {}", letter.summary.id));
    for (name, fact) in facts(&letter) {
        say(format_args!("  {name:<11} {fact}"));
    }
    say_contents(&letter, most);
    Ok(ExitCode::SUCCESS)
}

fn facts(shown: &ShownLetter) -> Vec<(&'static str, String)> {
    let letter = &shown.summary;
    let line = |text: &str| view::one_line(text, usize::MAX);
    let came = if letter.state() == LetterState::Parked { "parked" } else { "died" };
    let mut facts = vec![
        ("state", state(letter)),
        (came, rfc3339_s(letter.created_ms)),
        ("kind", letter.kind.clone()),
        ("message", line(&letter.message)),
        ("attempts", letter.attempts.to_string()),
    ];
    facts.extend(letter.app.as_deref().map(|app| ("app", line(app))));
    facts.extend(letter.request_id.as_deref().map(|id| ("request", line(id))));
    facts.extend(letter.job.map(|job| ("job", job.to_string())));
    facts.extend(origin(letter).map(|origin| ("record", origin)));
    let published = match (shown.published, letter.state()) {
        (true, _) => "published",
        (false, LetterState::Parked) => "not published: it is not dead yet",
        (false, _) => "waits to be published",
    };
    facts.push(("DLQ topic", published.into()));
    if letter.replays > 0 {
        facts.push(("replays", format!("{} led to it", letter.replays)));
    }
    let link = |letter: &LetterSummary| format!("{} ({})", letter.id, letter.state());
    facts.extend(shown.chain.before.iter().map(|before| ("replay of", link(before))));
    facts.extend(shown.chain.after.iter().map(|after| ("died again", link(after))));
    facts
}

fn state(letter: &LetterSummary) -> String {
    let since = rfc3339_s(letter.changed_ms);
    match letter.state() {
        LetterState::Dead if letter.corrected => format!("dead, corrected at {since}"),
        LetterState::Dead => "dead".into(),
        LetterState::Parked => match letter.due_ms {
            Some(due) => format!("parked: tried again at {}", rfc3339_s(due)),
            None => "parked: tried again".into(),
        },
        LetterState::Replayed => format!("replayed at {since}"),
        LetterState::Discarded => format!("discarded at {since}"),
    }
}

fn origin(letter: &LetterSummary) -> Option<String> {
    let (topic, number) = (letter.topic.as_ref()?, letter.number?);
    let offset = letter.source_offset?;
    let written = letter.source_time_ms.map(|ms| format!(", written {}", rfc3339_s(ms)));
    Some(format!("{topic}, partition {number}, offset {offset}{}", written.unwrap_or_default()))
}

fn say_contents(letter: &ShownLetter, most: usize) {
    for (name, value) in view::headers(&letter.headers) {
        say(format_args!("  {:<11} {name}: {value}", "header"));
    }
    let contents =
        [("key", &letter.key), ("value", &letter.value), ("correction", &letter.correction)];
    for (name, contents) in contents {
        let Some(contents) = contents else {
            if name == "value" {
                say("  value       none");
            }
            continue;
        };
        let (shown, left) = view::bytes(contents, most);
        let size = grouped(contents.len() as f64);
        say(format_args!("  {name:<11} {size} bytes"));
        say(shown);
        if left > 0 {
            say(format_args!("... and {} bytes more: add --full", grouped(left as f64)));
        }
    }
}
