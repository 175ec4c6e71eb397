//! `apps show`: one app, with its limits as they are in force, configured and overridden.

use std::process::ExitCode;

use serde_json::{Map, Value};
use tracing_subscriber::filter::LevelFilter;

use super::list::paused;
use crate::cli::ConfigFile;
use crate::cli::output::{DocumentOption, document, on_one_line, say, table};
use crate::cli::session::Session;
use crate::operations::{App, rfc3339_s};

/// Shows an app: its limits, who fires its jobs, and whether it is paused
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler apps show sms
  infinite-scheduler apps show sms --json

Exit codes: 0 shown; 1 it failed; 2 it cannot work as it was asked; 3 there is no such app; 4 the
database does not answer.")]
pub(super) struct Show {
    #[command(flatten)]
    config: ConfigFile,
    /// Its name
    #[arg(value_name = "APP")]
    app: String,
    #[command(flatten)]
    form: DocumentOption,
}

pub(super) async fn run(arguments: Show) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let app = session.operations.apps().show(&*arguments.app).await;
    session.close().await;
    let app = app?;
    match arguments.form.json {
        true => document(&app)?,
        false => say(lines(&app)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(app: &App) -> serde_json::Result<String> {
    let instances = match app.instances.is_empty() {
        true => "no instance".to_owned(),
        false => app.instances.join(", "),
    };
    let pause = app.pause.as_ref().map_or_else(|| "no".to_owned(), paused);
    let mut text = format!(
        "{}: {} shards, {} owned, fired by {}; paused: {pause}\n",
        app.app_name,
        app.shards,
        app.owned_shards,
        on_one_line(&instances),
    );
    if let Some(over) = &app.overrides {
        let since = rfc3339_s(over.since_ms);
        text += &format!("limits were changed at {since} by {}\n", on_one_line(&over.by));
    }
    if let Some(share) = app.objective_met_last_hour {
        let percent = share * 100.0;
        let started = app.started_last_hour;
        text += &format!("{percent:.2} % of {started} attempts met objectiveMs in the last hour\n");
    }
    let (in_force, configured) = (fields(&app.limits)?, fields(&app.configured)?);
    let rows: Vec<Vec<String>> = in_force
        .iter()
        .map(|(name, value)| {
            let written = configured.get(name).map_or_else(|| "none".to_owned(), Value::to_string);
            vec![name.clone(), value.to_string(), written]
        })
        .collect();
    text += table(&["limit", "in force", "configured"], &rows).trim_end();
    Ok(text)
}

fn fields(values: &impl serde::Serialize) -> serde_json::Result<Map<String, Value>> {
    match serde_json::to_value(values)? {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}
