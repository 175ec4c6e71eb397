//! `apps list`: the registered apps, and the instances that fire their jobs.

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use crate::cli::ConfigFile;
use crate::cli::output::{ListOptions, on_one_line, report, say, table};
use crate::cli::session::Session;
use crate::operations::{App, Paused, rfc3339_s};

/// Lists the apps that were ever registered on the database, and the instances that fire their jobs
///
/// OWNED is the number of shards that a live instance owns. The limits are those of the instance
/// that registered the app last.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler apps list
  infinite-scheduler apps list --json

Exit codes: 0 listed, 1 it failed, 2 it cannot work as it was asked, 4 the database does not answer.")]
pub(super) struct List {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    form: ListOptions,
}

pub(super) async fn run(arguments: List) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let apps = session.operations.apps().list().await;
    session.close().await;
    let apps = apps?;
    if let Some(printer) = arguments.form.printer() {
        printer.whole(&apps)?;
    } else if apps.is_empty() {
        report("no app was ever registered");
    } else {
        let names = [
            "app",
            "shards",
            "owned",
            "max attempts",
            "timeout ms",
            "delivery",
            "instances",
            "paused",
        ];
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
    cells.push(app.delivery.as_str().to_owned());
    cells.push(instances);
    cells.push(app.pause.as_ref().map_or_else(|| "no".to_owned(), paused));
    cells
}

/// `since 2026-11-29T08:00:00Z by anna: the provider is down`
pub(super) fn paused(pause: &Paused) -> String {
    let since = rfc3339_s(pause.since_ms);
    let refuses = match pause.refuse_requests {
        Some(true) => ", refuses requests",
        Some(false) | None => "",
    };
    let reason = pause.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    on_one_line(&format!("since {since} by {}{refuses}{reason}", pause.by))
}
