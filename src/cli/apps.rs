//! `apps`: the registered apps, and the instances that fire their jobs.

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::ConfigFile;
use super::output::{ListOptions, report, say, table};
use super::session::Session;
use crate::operations::App;

/// Lists the apps that were ever registered on the database, and the instances that fire their jobs
///
/// OWNED is the number of shards that a live instance owns. The limits are those of the instance
/// that registered the app last.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler apps
  infinite-scheduler apps --json

Exit codes: 0 listed, 1 it failed, 2 it cannot work as it was asked, 4 the database does not answer.")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    form: ListOptions,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let apps = session.operations.apps().list().await;
    session.close().await;
    let apps = apps?;
    if let Some(printer) = arguments.form.printer() {
        printer.whole(&apps)?;
    } else if apps.is_empty() {
        report("no app was ever registered");
    } else {
        let names = ["app", "shards", "owned", "max attempts", "timeout ms", "instances"];
        let rows: Vec<Vec<String>> = apps.iter().map(cells).collect();
        say(table(&names, &rows).trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

fn cells(app: &App) -> Vec<String> {
    let instances = match app.instances.is_empty() {
        true => "none".to_owned(),
        false => app.instances.join(", "),
    };
    let numbers =
        [u64::from(app.shards), app.owned_shards.into(), app.max_attempts.into(), app.timeout_ms];
    let mut cells = vec![app.app_name.clone()];
    cells.extend(numbers.map(|number| number.to_string()));
    cells.push(instances);
    cells
}
