//! `instances`: who is alive, what they own, and draining one.

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::ConfigFile;
use super::author::Author;
use super::output::{DocumentOption, ListOptions, document, on_one_line, report, say, text_table};
use super::session::Session;
use crate::operations::{DrainResult, InstanceItem, rfc3339_s};

/// Shows who is alive and which shards they own; drains one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler instances list
  infinite-scheduler instances list --json
  infinite-scheduler instances drain 4711 --reason 'the host is replaced'")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    List(List),
    Drain(Drain),
}

/// Lists the instances that are alive, or died less than a day ago
///
/// LEASE UNTIL is by the database's clock: afterwards an instance is dead and others take its
/// shards. ZONES is the version of its time zone database.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler instances list
  infinite-scheduler instances list --json

Exit codes: 0 listed, 1 it failed, 2 it cannot work as it was asked, 4 the database does not answer.")]
struct List {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    form: ListOptions,
}

/// Makes an instance give up its shards and partitions
///
/// It begins with its next heartbeat, lets what runs end, and takes nothing until it is
/// restarted. It goes on to answer calls.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler instances drain 4711 --reason 'the host is replaced'

Exit codes: 0 it was told, now or before; 1 it failed; 2 it cannot work as it was asked; 3 there is
no such instance, or it is dead; 4 the database does not answer.")]
struct Drain {
    #[command(flatten)]
    config: ConfigFile,
    /// Its id, as `instances list` shows it
    #[arg(value_name = "ID")]
    instance: String,
    #[command(flatten)]
    form: DocumentOption,
    #[command(flatten)]
    author: Author,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::List(arguments) => list(arguments).await,
        Action::Drain(arguments) => drain(arguments).await,
    }
}

async fn list(arguments: List) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let instances = session.operations.instances().list().await;
    session.close().await;
    let instances = instances?;
    if let Some(printer) = arguments.form.printer() {
        printer.whole(&instances)?;
    } else if instances.is_empty() {
        report("no instance runs on this database");
    } else {
        let names =
            ["id", "name", "state", "version", "zones", "since", "lease until", "shards", "apps"];
        let rows: Vec<Vec<String>> = instances.iter().map(cells).collect();
        say(text_table(&names, &rows).trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

async fn drain(arguments: Drain) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let operations = session.operations_of(&arguments.author);
    let drained = operations.instances().drain(&arguments.instance).await;
    session.close().await;
    let answer = drained?;
    if arguments.form.json {
        document(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (id, name) = (&answer.instance.id, on_one_line(&answer.instance.name));
    match answer.result {
        DrainResult::Draining => say(format_args!(
            "instance {id} ({name}) gives up its {} shards and its partitions",
            answer.instance.owned_shards
        )),
        DrainResult::Unchanged => say(format_args!("instance {id} ({name}) was drained before")),
    }
    Ok(ExitCode::SUCCESS)
}

fn cells(one: &InstanceItem) -> Vec<String> {
    let apps = if one.apps.is_empty() { "none".to_owned() } else { one.apps.join(", ") };
    vec![
        one.id.clone(),
        on_one_line(&one.name),
        one.state.as_str().to_owned(),
        one.version.clone(),
        one.time_zones.clone(),
        rfc3339_s(one.started_ms),
        rfc3339_s(one.lease_until_ms),
        one.owned_shards.to_string(),
        apps,
    ]
}
