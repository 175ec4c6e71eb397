//! `jobs`: jobs are listed or cancelled, and one is shown, cancelled, rescheduled, started or edited.

mod answer;
mod change;
mod list;
mod show;

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;
use uuid::Uuid;

use super::session::Session;
use super::{CannotStart, cannot_start};
use crate::operations::JobName;

pub(super) use self::answer::{code, sentence};

/// Lists or cancels jobs; shows one, cancels it, moves it, starts it, or changes its fields
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler jobs list --app sms --state scheduled
  infinite-scheduler jobs show 0d6f8e0c-8d2a-8c3f-9a51-4b2b8a5d7e11
  infinite-scheduler jobs cancel --app sms --request 9f1c --reason 'ordered twice'
  infinite-scheduler jobs cancel --app sms --from 2030-01-01T08:00:00Z --yes
  infinite-scheduler jobs reschedule --app sms --key order-7 --to 2030-01-01T08:00:00Z")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    List(list::Arguments),
    Show(show::Show),
    Cancel(change::Cancel),
    Reschedule(change::Reschedule),
    Run(change::Run),
    Edit(change::Edit),
}

/// Which job
#[derive(Debug, clap::Args)]
struct Which {
    /// Its id
    #[arg(value_name = "JOB")]
    id: Option<Uuid>,
    /// The app, if the job is named by its request or key
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    app: Option<String>,
    /// The requestId that it was asked for by
    #[arg(long, value_name = "ID", requires = "app", conflicts_with_all = ["id", "key"])]
    request: Option<String>,
    /// The idempotencyKey of its request
    #[arg(long, value_name = "KEY", requires = "app", conflicts_with = "id")]
    key: Option<String>,
}

impl Which {
    fn name(&self) -> Result<JobName, CannotStart> {
        let Self { id, app, request, key } = self;
        match (id, app, request, key) {
            (Some(id), ..) => Ok((*id).into()),
            (None, Some(app), Some(request), None) => Ok(JobName::of_request(app, request)),
            (None, Some(app), None, Some(key)) => Ok(JobName::of_key(app, key)),
            _ => Err(cannot_start("name one job: by its id, or by --app with --request or --key")),
        }
    }
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::List(arguments) => {
            let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
            let done = list::run(&session, arguments).await;
            session.close().await;
            done
        }
        Action::Show(show) => show::run(show).await,
        Action::Cancel(cancel) => change::cancel(cancel).await,
        Action::Reschedule(reschedule) => change::reschedule(reschedule).await,
        Action::Run(run) => change::run(run).await,
        Action::Edit(edit) => change::edit(edit).await,
    }
}
