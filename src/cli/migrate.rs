//! `migrate`: brings the tables up to this version, or takes them all away.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::LevelFilter;

use super::sql::Sql;
use super::{ConfigFile, cannot_start, load, output};
use crate::config::Config;
use crate::model::ids::InstanceId;
use crate::store::{Error as StoreError, Store, StoreOptions};
use crate::telemetry;

/// Brings the database's tables up to this version
///
/// `serve` does so by itself when it starts; this is for those who let another user of the
/// database do it, or at another time.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler migrate
  infinite-scheduler migrate --config /etc/infinite-scheduler.toml
  infinite-scheduler migrate --down --yes")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Take all tables away, with every job and dead letter in them
    #[arg(long)]
    down: bool,
    /// Yes, with every job and dead letter in them
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
    let store = open(&config).await?;
    let sql = Sql::connect(config.database.url.expose_secret()).await?;
    let done = match arguments.down {
        false => up(&store, &sql).await,
        true => down(&store, &sql).await,
    }?;
    output::say(format_args!("{} ({}): {done}", config.database.shown_url(), store.kind()));
    sql.close().await;
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

/// The database of the configuration, for a command that is soon done.
pub(super) async fn open(config: &Config) -> anyhow::Result<Store> {
    connect(config, config.database.url.clone()).await
}

/// The same for one that has nothing to do in a database that is not there: it makes no file.
pub(super) async fn open_existing(config: &Config) -> anyhow::Result<Store> {
    let url = config.database.url.expose_secret().replacen("mode=rwc", "mode=rw", 1);
    connect(config, url.into()).await
}

async fn connect(config: &Config, url: SecretString) -> anyhow::Result<Store> {
    let options = StoreOptions {
        url,
        max_connections: config.database.max_connections.get(),
        lease: config.instance.lease,
    };
    Store::connect(&options).await.map_err(|error| told(config, error))
}

/// An error of the store, with the database that it is about.
pub(super) fn told(config: &Config, error: StoreError) -> anyhow::Error {
    let sentence = format!("{}: {error}", config.database.shown_url());
    match error {
        StoreError::Unusable(_) => cannot_start(sentence).into(),
        _ => anyhow::Error::msg(sentence),
    }
}

async fn up(store: &Store, sql: &Sql) -> anyhow::Result<String> {
    let before = sql.applied_steps().await;
    store.migrate().await.map_err(|error| match error {
        StoreError::Unusable(why) => cannot_start(why).into(),
        error => anyhow::Error::from(error),
    })?;
    let mut taken = sql.applied_steps().await;
    taken.retain(|step| !before.contains(step));
    Ok(match taken.len() {
        0 => "the tables are those of this version already".into(),
        _ => format!("the tables are those of this version now, by {}", taken.join(", ")),
    })
}

async fn down(store: &Store, sql: &Sql) -> anyhow::Result<String> {
    let steps = sql.applied_steps().await;
    if steps.is_empty() {
        return Ok("there are no tables of ours".into());
    }
    let nobody = InstanceId(0);
    let seen = store.observe(nobody).await.context("cannot see whether an instance runs")?;
    let until = seen.instances.iter().map(|instance| instance.lease_until_us).max();
    let left_us = until.unwrap_or(i64::MIN).saturating_sub(seen.now_us);
    if let Ok(left @ 1..) = u64::try_from(left_us) {
        let seconds = Duration::from_micros(left).as_secs_f64();
        bail!(
            "an instance is running on these tables (its lease goes on for {seconds:.1} s): stop \
             it first"
        );
    }
    store.migrate_down().await?;
    Ok("the tables are gone".into())
}
