//! `dead-letters replay`: these letters' requests are admitted again.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::deed::{Answer, Deed, carry_out};
use super::selection::Selection;
use super::{Desk, why_not};
use crate::admission::{Admission, AdmissionRules, Replay, Replayed};
use crate::cli::ConfigFile;
use crate::model::clock::SystemClock;
use crate::service::SubmitError;
use crate::store::{LetterState, LetterSummary, Names};

/// Admits the requests of dead letters again, their corrections where they have one
///
/// A request goes through the same checks as any other; what is refused stays a dead letter. A
/// job that failed is a new job with its data and limits, due at once. Letters by filter are
/// counted first; nothing is done to them without --yes. A dry run takes all to be admitted at
/// one moment: it does not foresee that a job of theirs ends before the next is admitted. A
/// letter that is the end of `dead_letters.max_replays` replays is not replayed again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler dead-letters replay 0198c0de-1234
  infinite-scheduler dead-letters replay --app sms --kind attempts-exhausted --from 2h --dry-run
  infinite-scheduler dead-letters replay --contains 'provider is down' --yes

Exit codes: 0 all replayed, or nothing to do; 1 some were not, or --yes is missing; 2 it cannot
work as it was asked.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    #[command(flatten)]
    selection: Selection,
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> anyhow::Result<ExitCode> {
    // Somebody who is no instance: the owners of the shards are told to look at the new jobs.
    let (store, rules) = (desk.store.clone(), AdmissionRules::from(&desk.config));
    let lease = desk.config.instance.lease;
    let admission = Admission::stand_alone(store, Arc::new(SystemClock), rules, lease);
    carry_out(desk, &arguments.selection, &ReplayThem { admission, names: Mutex::default() }).await
}

struct ReplayThem {
    admission: Admission,
    /// What the letters before would have taken, in a dry run.
    names: Mutex<Names>,
}

impl Deed for ReplayThem {
    const VERB: &'static str = "replay";
    const DONE: &'static str = "replayed";

    fn objection(&self, letter: &LetterSummary) -> Option<String> {
        (letter.state() != LetterState::Dead).then(|| why_not(letter))
    }

    async fn foresee(&self, letters: &[LetterSummary]) -> anyhow::Result<Vec<Answer>> {
        let mut names = self.names.lock().await;
        let mut answers = Vec::with_capacity(letters.len());
        for letter in letters {
            answers.push(match self.objection(letter) {
                Some(why) => Err(why),
                None => answer(self.admission.foresee_replay(&of(letter), &mut names).await),
            });
        }
        Ok(answers)
    }

    async fn apply(&self, letters: &[LetterSummary]) -> anyhow::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(letters.len());
        let mut away = false;
        for letter in letters {
            answers.push(match self.objection(letter) {
                Some(why) => Err(why),
                None if away => Err("not tried, as the one before had no answer".into()),
                None => {
                    let replayed = self.admission.replay(&of(letter)).await;
                    away = replayed.is_err();
                    answer(replayed)
                }
            });
        }
        Ok(answers)
    }
}

fn of(letter: &LetterSummary) -> Replay {
    Replay { letter: letter.id, value: None }
}

fn answer(replayed: Result<Replayed, SubmitError>) -> Answer {
    match replayed {
        Err(SubmitError::Unavailable(why)) => Err(format!("no answer: {why}")),
        Err(error) => Err(error.to_string()),
        Ok(Replayed::Accepted { job_id }) => Ok(format!("as job {job_id}")),
        Ok(Replayed::Duplicate { job_id, of }) => {
            Ok(format!("as a duplicate of request {of:?}, job {job_id}"))
        }
        Ok(Replayed::Refused(refusal)) => Err(format!("{} ({})", refusal.message, refusal.kind)),
        Ok(Replayed::NotPossible(why)) => Err(why),
    }
}
