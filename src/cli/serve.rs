//! `serve`: runs one instance of the service until a signal ends it.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use tracing::{info, warn};
use tracing_subscriber::filter::LevelFilter;

use super::signals::Signals;
use super::{CannotStart, ConfigFile, cannot_start, load, output};
use crate::health::HealthReport;
use crate::http::{Server, ServerError, ServerOptions};
use crate::service::{Scheduler, SchedulerBuilder};
use crate::telemetry;

/// How often readiness is checked.
const LOOK: Duration = Duration::from_millis(20);

/// How long the end of the HTTP server is waited for.
const PAGE_PATIENCE: Duration = Duration::from_millis(200);

/// Runs the service: reads requests, keeps the jobs in the database and fires them
///
/// Prints `listening on http://...`, then `ready` when it reads requests and fires jobs. SIGTERM
/// and SIGINT let running jobs end, up to `instance.drain_timeout_ms`; a second one ends the
/// process at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler serve
  infinite-scheduler serve --config /etc/infinite-scheduler.toml
  INFINITE_SCHEDULER__DATABASE__URL=postgres://user:pass@host/db infinite-scheduler serve

Exit codes: 0 drained, 2 it cannot start with this configuration or database, 130 or 143 ended by a
second signal without draining.")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = load(arguments.config.config.as_deref())?;
    telemetry::init(config.log.format, LevelFilter::INFO).map_err(cannot_start)?;
    let mut signals = Signals::listen()?;
    let page = Server::start(ServerOptions::from(&config)).map_err(|error| match error {
        ServerError::Listen { address, source } => {
            CannotStart(format!("cannot listen on http.listen = {address}: {source}"))
        }
        ServerError::Token(why) => CannotStart(format!("http.tokens: {why}")),
        other => cannot_start(other),
    })?;
    output::say(format_args!("listening on http://{}", page.address()));

    let builder = SchedulerBuilder::from_config(&config);
    page.show_start(builder.progress());
    let scheduler = tokio::select! {
        started = builder.start() => started.map_err(cannot_start)?,
        ask = signals.next() => {
            info!("{ask} while starting: nothing to drain");
            return Ok(ExitCode::SUCCESS);
        }
    };
    page.show(scheduler.clone());
    let ask = tokio::select! {
        ask = signals.next() => ask,
        never = announce_ready(&scheduler) => match never {},
    };
    let patience = config.instance.drain_timeout;
    let seconds = patience.as_secs_f64();
    info!("{ask}: running jobs may take {seconds} s to end; another signal ends this at once");
    scheduler.shutdown(patience).await;
    if tokio::time::timeout(PAGE_PATIENCE, page.stop()).await.is_err() {
        warn!("the http server is slow to stop: it is not waited for");
    }
    info!("drained");
    Ok(ExitCode::SUCCESS)
}

/// Prints `ready` once. Later problems are reported by `/health/ready`.
async fn announce_ready(scheduler: &Scheduler) -> Infallible {
    while !runs(&scheduler.health()) {
        tokio::time::sleep(LOOK).await;
    }
    output::say("ready");
    std::future::pending().await
}

/// Whether it is ready and the consumer group has assigned its partitions. Other problems, such as
/// a partition that cannot be read, do not concern this instance as a whole.
fn runs(health: &HealthReport) -> bool {
    health.ready && health.degraded.iter().all(|problem| problem.subject != "kafka")
}
