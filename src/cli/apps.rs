//! `apps`: the registered apps and the instances that fire their jobs; pausing, resuming and
//! deleting an app, and changing its limits.

mod change;
mod forecast;
mod limits;
mod list;
mod show;

use std::process::ExitCode;

/// Lists the apps that were ever registered, and pauses, resumes, changes or deletes one
///
/// Without a command the apps are listed, as by `apps list`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  infinite-scheduler apps
  infinite-scheduler apps list --json
  infinite-scheduler apps pause sms --reason 'the provider is down'
  infinite-scheduler apps resume sms
  infinite-scheduler apps show sms
  infinite-scheduler apps forecast sms --hours 3
  infinite-scheduler apps set sms --rate-per-second 50

Exit codes: 0 listed, 1 it failed, 2 it cannot work as it was asked, 4 the database does not answer."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: list::List,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    List(list::List),
    Show(show::Show),
    Forecast(forecast::Forecast),
    Set(Box<limits::Set>),
    Reset(limits::Reset),
    Pause(change::Pause),
    Resume(change::Resume),
    Delete(change::Delete),
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { action, list } = arguments;
    match action {
        None => list::run(list).await,
        Some(Action::List(list)) => list::run(list).await,
        Some(Action::Show(show)) => show::run(show).await,
        Some(Action::Forecast(forecast)) => forecast::run(forecast).await,
        Some(Action::Set(set)) => limits::set(*set).await,
        Some(Action::Reset(reset)) => limits::reset(reset).await,
        Some(Action::Pause(pause)) => change::pause(pause).await,
        Some(Action::Resume(resume)) => change::resume(resume).await,
        Some(Action::Delete(delete)) => change::delete(delete).await,
    }
}
