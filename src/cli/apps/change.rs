//! `apps pause`, `apps resume` and `apps delete`.

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::list::paused;
use crate::cli::ConfigFile;
use crate::cli::author::Author;
use crate::cli::output::{DocumentOption, document, on_one_line, say};
use crate::cli::session::Session;
use crate::operations::{AppChange, AppResult, Operations, Result};

/// Pauses an app: none of its jobs is started until it is resumed
///
/// Every instance takes notice within two heartbeats, and the pause outlives every restart. What
/// runs may end, the jobs stay, and `expiresTime` goes on. Requests are accepted as before, unless
/// --refuse-requests: then each is refused, and a record becomes a dead letter of the kind
/// `refused-by-app`. An app that is paused gets the new rule and reason.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler apps pause sms --reason 'the provider is down'
  infinite-scheduler apps pause sms --refuse-requests --reason 'a producer runs wild'

Exit codes: 0 it is paused, now or before; 1 it failed; 2 it cannot work as it was asked; 3 there is
no such app; 4 the database does not answer.")]
pub(super) struct Pause {
    #[command(flatten)]
    common: Common,
    /// Also refuse its requests
    #[arg(long)]
    refuse_requests: bool,
}

/// Resumes an app: what is due is started
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler apps resume sms --reason 'the provider is back'

Exit codes: 0 it is not paused, now or before; 1 it failed; 2 it cannot work as it was asked; 3 there
is no such app; 4 the database does not answer.")]
pub(super) struct Resume {
    #[command(flatten)]
    common: Common,
}

/// Deletes an app that nobody uses any more
///
/// It is unknown from then on: its requests are refused or dead letters, until an instance
/// registers it again. An app that has jobs, or that a live instance has, is not deleted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler apps delete fax --reason 'nobody has a fax any more'

Exit codes: 0 deleted; 1 it failed; 2 it cannot work as it was asked; 3 there is no such app, or it
is in use; 4 the database does not answer.")]
pub(super) struct Delete {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Common {
    #[command(flatten)]
    config: ConfigFile,
    /// Its name
    #[arg(value_name = "APP")]
    app: String,
    #[command(flatten)]
    form: DocumentOption,
    #[command(flatten)]
    author: Author,
}

pub(super) async fn pause(arguments: Pause) -> anyhow::Result<ExitCode> {
    let refuse_requests = arguments.refuse_requests;
    change(arguments.common, false, async move |operations: &Operations, app: &str| {
        operations.apps().pause(app, refuse_requests).await
    })
    .await
}

pub(super) async fn resume(arguments: Resume) -> anyhow::Result<ExitCode> {
    change(arguments.common, false, async |operations: &Operations, app: &str| {
        operations.apps().resume(app).await
    })
    .await
}

pub(super) async fn delete(arguments: Delete) -> anyhow::Result<ExitCode> {
    change(arguments.common, false, async |operations: &Operations, app: &str| {
        operations.apps().delete(app).await
    })
    .await
}

pub(super) async fn change(
    arguments: Common,
    limits: bool,
    operation: impl AsyncFnOnce(&Operations, &str) -> Result<AppChange>,
) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let operations = session.operations_of(&arguments.author);
    let changed = operation(&operations, &arguments.app).await;
    session.close().await;
    let change = changed?;
    match arguments.form.json {
        true => document(&change)?,
        false => say(on_one_line(&sentence(&change, limits))),
    }
    Ok(ExitCode::SUCCESS)
}

/// `limits`: its limits were to be changed, not its pause.
fn sentence(change: &AppChange, limits: bool) -> String {
    let app = &change.app_name;
    let pause =
        change.pause.as_ref().map(|pause| format!(" {}", paused(pause))).unwrap_or_default();
    let still = change.pause.as_ref().map_or("", |_| "; it stays paused");
    match (change.result, &change.pause) {
        (AppResult::Paused, _) => format!("app {app} is paused{pause}"),
        (AppResult::Resumed, _) => format!("app {app} is resumed"),
        (AppResult::Deleted, _) => format!("app {app} is deleted"),
        (AppResult::Changed, _) => {
            format!("app {app} has these limits within two heartbeats{still}")
        }
        (AppResult::Reset, _) => format!("app {app} has its configured limits again{still}"),
        (AppResult::Unchanged, _) if limits => format!("app {app} had these limits before{still}"),
        (AppResult::Unchanged, Some(_)) => format!("app {app} was paused before,{pause}"),
        (AppResult::Unchanged, None) => format!("app {app} was not paused"),
    }
}
