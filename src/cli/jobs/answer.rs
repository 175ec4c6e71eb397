//! The answers of operations on one job, for people, and their exit codes.

use std::process::ExitCode;

use crate::cli::exit::Exit;
use crate::operations::{ChangeResult, JobAnswer, rfc3339_s};

/// 0 if it is as was asked, 3 if it is not, 4 while nobody knows.
pub(in crate::cli) fn code(answer: &JobAnswer) -> ExitCode {
    match (answer.done, answer.result) {
        (true, _) => ExitCode::SUCCESS,
        (false, ChangeResult::NotAnswered | ChangeResult::Remembered) => Exit::NoAnswer.into(),
        (false, _) => Exit::No.into(),
    }
}

pub(in crate::cli) fn sentence(answer: &JobAnswer) -> String {
    let job = answer.job_id.map_or_else(|| "the job".to_owned(), |id| format!("job {id}"));
    let paused = if answer.app_paused { "; its app is paused" } else { "" };
    let due = answer.due_ms.map(|ms| format!(", due at {}", rfc3339_s(ms))).unwrap_or_default();
    match answer.result {
        ChangeResult::Cancelled => {
            let by = answer.cancelled_by.as_deref().unwrap_or("somebody");
            let at = answer.cancelled_ms.map(rfc3339_s).unwrap_or_default();
            format!("{job} is cancelled, by {by} at {at}")
        }
        ChangeResult::Rescheduled => format!("{job} is rescheduled{due}{paused}"),
        ChangeResult::Edited => format!("{job} is changed{due}{paused}"),
        ChangeResult::Started => format!("{job} is started{due}{paused}"),
        ChangeResult::Replaced => format!("{job} is replaced{due}{paused}"),
        ChangeResult::Superseded => {
            format!("{job}: a higher version came before: nothing was changed")
        }
        ChangeResult::Remembered => {
            format!("{job} does not exist yet: the operation is remembered")
        }
        ChangeResult::AlreadyFired => format!("{job} has fired already: nothing was changed"),
        ChangeResult::Running => {
            let then = match answer.will_retry {
                Some(false) => "it is not tried again",
                _ => "it is tried again if that fails",
            };
            let changed = if answer.done { "" } else { ": nothing was changed" };
            format!("{job} is running, and {then}{changed}")
        }
        ChangeResult::Unknown => format!("{job} is unknown: there is none, or it has ended"),
        ChangeResult::NotAnswered => {
            let operation = answer.operation.unwrap_or_default();
            format!(
                "{job}: the owner of its shard has not answered yet; the answer will be at \
                 `operations show {operation}`"
            )
        }
    }
}
