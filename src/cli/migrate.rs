//! `migrate`: brings the tables up to this version, or removes them all.

use std::process::ExitCode;

use anyhow::bail;
use tracing_subscriber::filter::LevelFilter;

use super::{ConfigFile, cannot_start, load, output};
use crate::operations::{Result, Tables};
use crate::telemetry;

/// Brings the database's tables up to this version
///
/// `serve` does this when it starts; use this command to do it as another user of the database, or
/// at another time.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler migrate
  infinite-scheduler migrate --config /etc/infinite-scheduler.toml
  infinite-scheduler migrate --down --yes

Exit codes: 0 done, 1 --yes is missing or it failed, 2 it cannot work as it was asked, 3 an instance
is running on the tables, 4 the database does not answer.")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Remove all tables, with every job and dead letter in them
    #[arg(long)]
    down: bool,
    /// Confirm that every job and dead letter is deleted
    #[arg(long, requires = "down")]
    yes: bool,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if arguments.down && !arguments.yes {
        let way_out = "add --yes if that is what you want";
        bail!("nothing was changed: --down deletes every job and dead letter: {way_out}");
    }
    let config = load(arguments.config.config.as_deref())?;
    telemetry::init(config.log.format, LevelFilter::WARN).map_err(cannot_start)?;
    let tables = Tables::connect(&config).await?;
    let done = match arguments.down {
        false => up(&tables).await,
        true => down(&tables).await,
    };
    let database = tables.database();
    tables.close().await;
    output::say(format_args!("{database}: {}", done?));
    Ok(ExitCode::SUCCESS)
}

async fn up(tables: &Tables) -> Result<String> {
    let taken = tables.migrate().await?;
    Ok(match taken.len() {
        0 => "the tables are those of this version already".into(),
        _ => format!("the tables are those of this version now, by {}", taken.join(", ")),
    })
}

async fn down(tables: &Tables) -> Result<String> {
    Ok(match tables.remove().await?.len() {
        0 => "there are no tables of ours".into(),
        _ => "the tables are gone".into(),
    })
}
