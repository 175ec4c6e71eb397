//! `apps forecast`: what is due in the coming hours, against what the app's instances start.

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use crate::cli::ConfigFile;
use crate::cli::output::{DocumentOption, document, say, table};
use crate::cli::session::Session;
use crate::operations::{Forecast as Answer, rfc3339_s};

/// Shows how many jobs of an app are due in each minute of the next hours
///
/// Beside them stands what is overdue, how many attempts start per second, and when nothing is
/// overdue any more at that pace. No minute is counted beyond 10,000. Minutes without a job are left
/// out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler apps forecast sms
  infinite-scheduler apps forecast sms --hours 3 --json

Exit codes: 0 shown; 1 it failed; 2 it cannot work as it was asked; 3 there is no such app; 4 the
database does not answer.")]
pub(super) struct Forecast {
    #[command(flatten)]
    config: ConfigFile,
    /// Its name
    #[arg(value_name = "APP")]
    app: String,
    /// How many hours, at most 24
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=24))]
    hours: u32,
    #[command(flatten)]
    form: DocumentOption,
}

pub(super) async fn run(arguments: Forecast) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let forecast = session.operations.apps().forecast(&*arguments.app, arguments.hours).await;
    session.close().await;
    let forecast = forecast?;
    match arguments.form.json {
        true => document(&forecast)?,
        false => say(lines(&forecast)),
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(forecast: &Answer) -> String {
    let Answer { app_name, overdue, more_overdue, starts_per_second, .. } = forecast;
    let at_least = if *more_overdue { "at least " } else { "" };
    let drained = match forecast.drained_in_seconds {
        Some(seconds) => format!("nothing is overdue in {seconds} s at that pace"),
        None => "that pace does not catch up".to_owned(),
    };
    let mut text = format!(
        "{app_name}: {at_least}{overdue} jobs are overdue, {starts_per_second} attempts start per \
         second: {drained}\n"
    );
    let due = forecast.minutes.iter().filter(|minute| minute.jobs > 0);
    let rows: Vec<Vec<String>> =
        due.map(|minute| vec![rfc3339_s(minute.from_ms), minute.jobs.to_string()]).collect();
    if !rows.is_empty() {
        text += &table(&["minute from", "jobs"], &rows);
    }
    text.trim_end().to_owned()
}
