//! `apps set` and `apps reset`: limits that win over the configuration while the app runs.

use std::process::ExitCode;

use super::change::{Common, change};
use crate::operations::{Error, LimitChange, Operations};

/// Changes limits of an app while it runs, on every instance
///
/// They win over the configuration within two heartbeats and over every restart, until
/// `apps reset`. A paused app stays paused. With `default` a limit is as configured again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler apps set sms --rate-per-second 50 --reason 'the provider has limited us'
  infinite-scheduler apps set sms --max-concurrent 4 --timeout-ms 5000
  infinite-scheduler apps set sms --rate-per-second default

Exit codes: 0 it has these limits, now or before; 1 it failed; 2 it cannot work as it was asked; 3 there
is no such app, or a value is refused; 4 the database does not answer.")]
pub(super) struct Set {
    #[command(flatten)]
    common: Common,
    /// Attempts that may start per second, over all instances
    #[arg(long, value_name = "NUMBER", value_parser = value)]
    rate_per_second: Option<String>,
    /// Attempts that may start at once after a pause
    #[arg(long, value_name = "NUMBER", value_parser = value)]
    burst: Option<String>,
    /// Attempts that may run at a time, over all instances
    #[arg(long, value_name = "NUMBER", value_parser = value)]
    max_concurrent: Option<String>,
    /// Attempts of jobs with one concurrencyKey that may run at a time
    #[arg(long, value_name = "NUMBER", value_parser = value)]
    max_concurrent_per_key: Option<String>,
    /// Attempts that may run at a time on one instance
    #[arg(long, value_name = "NUMBER", value_parser = value)]
    max_in_flight: Option<String>,
    /// Attempts of a job before it becomes a dead letter
    #[arg(long, value_name = "NUMBER", value_parser = value)]
    max_attempts: Option<String>,
    /// How long one attempt may take
    #[arg(long, value_name = "MS", value_parser = value)]
    timeout_ms: Option<String>,
    /// How long a job waits before it has a part beside jobs of a higher priority
    #[arg(long, value_name = "MS", value_parser = value)]
    priority_aging_ms: Option<String>,
    /// How late an attempt may start, as people are promised
    #[arg(long, value_name = "MS", value_parser = value)]
    objective_ms: Option<String>,
}

/// Makes the limits of an app those of its configuration again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler apps reset sms --reason 'the provider is fast again'

Exit codes: 0 they are as configured, now or before; 1 it failed; 2 it cannot work as it was asked; 3
there is no such app; 4 the database does not answer.")]
pub(super) struct Reset {
    #[command(flatten)]
    common: Common,
}

pub(super) async fn set(arguments: Set) -> anyhow::Result<ExitCode> {
    let fields = [
        ("ratePerSecond", &arguments.rate_per_second),
        ("burst", &arguments.burst),
        ("maxConcurrent", &arguments.max_concurrent),
        ("maxConcurrentPerKey", &arguments.max_concurrent_per_key),
        ("maxInFlight", &arguments.max_in_flight),
        ("maxAttempts", &arguments.max_attempts),
        ("timeoutMs", &arguments.timeout_ms),
        ("priorityAgingMs", &arguments.priority_aging_ms),
        ("objectiveMs", &arguments.objective_ms),
    ];
    let fields: Vec<String> = fields
        .iter()
        .filter_map(|(name, value)| Some(format!("\"{name}\":{}", value.as_ref()?)))
        .collect();
    let limits = LimitChange::from_json(&format!("{{{}}}", fields.join(",")));
    let limits = limits.map_err(Error::from)?;
    change(arguments.common, true, async move |operations: &Operations, app: &str| {
        operations.apps().change(app, limits).await
    })
    .await
}

pub(super) async fn reset(arguments: Reset) -> anyhow::Result<ExitCode> {
    change(arguments.common, true, async |operations: &Operations, app: &str| {
        operations.apps().reset(app).await
    })
    .await
}

/// A number as JSON, or `null` for `default`.
fn value(text: &str) -> Result<String, String> {
    match text {
        "default" => Ok("null".to_owned()),
        text if text.parse::<f64>().is_ok_and(f64::is_finite) => Ok(text.to_owned()),
        _ => Err("write a number, or default".to_owned()),
    }
}
