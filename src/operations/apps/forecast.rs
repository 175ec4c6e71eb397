//! What is due in the coming hours, against what the app's instances can start.

use super::Apps;
use crate::operations::context::Context;
use crate::operations::forecasts::{Forecast, ForecastMinute};
use crate::operations::{Error, Result};
use crate::store::{DueJobs, DueWithin, KnownApp};

const MINUTE_MS: i64 = 60_000;
/// The most hours.
const MOST_HOURS: u32 = 24;
/// Into how many intervals what is overdue is divided at most; the first ones are longer than a
/// minute if it is older than that.
const OVERDUE: i64 = 120;

impl Apps<'_> {
    /// The jobs of an app that are due in each minute of the next `hours`, and what is overdue,
    /// against what its instances start. The database is asked once a minute at most; in between,
    /// the same answer is given again.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `hours` are not from 1 to 24; [`Error::NotFound`] if no such app was
    /// ever registered; [`Error::Unavailable`] when the database does not answer.
    pub async fn forecast(&self, app: impl Into<String>, hours: u32) -> Result<Forecast> {
        let app = app.into();
        if !(1..=MOST_HOURS).contains(&hours) {
            let why = format!("hours is {hours}, but must be from 1 to {MOST_HOURS}");
            return Err(Error::Invalid(why));
        }
        self.context.run(move |context| async move { forecast(&context, &app, hours).await }).await
    }
}

async fn forecast(context: &Context, app: &str, hours: u32) -> Result<Forecast> {
    let now_ms = context.now_ms();
    if let Some(known) = context.forecasts.fresh(app, hours, now_ms) {
        return Ok(known);
    }
    let failed = |error| context.database_error(error);
    let store = context.store();
    let known = store.known_apps().await.map_err(failed)?;
    let known = known.into_iter().find(|known| known.name == app);
    let known =
        known.ok_or_else(|| Error::NotFound(format!("no app {app} was ever registered")))?;
    let shards = store.shards_of(known.id).await.map_err(failed)?;
    let mut intervals = match store.first_due(&shards).await.map_err(failed)? {
        Some(first_ms) => before(first_ms, now_ms),
        None => Vec::new(),
    };
    let overdue = intervals.len();
    intervals.extend((0..i64::from(hours) * 60).map(|minute| {
        let from_ms = now_ms + minute * MINUTE_MS;
        (from_ms, from_ms + MINUTE_MS)
    }));
    let counted = store.count_due_within(&shards, &intervals).await.map_err(failed)?;
    let (overdue, coming) = counted.split_at(overdue.min(counted.len()));
    let forecast = of(&known, now_ms, overdue, coming);
    context.forecasts.keep(hours, forecast.clone());
    Ok(forecast)
}

/// The intervals from the first due job until now.
fn before(first_ms: i64, now_ms: i64) -> Vec<(i64, i64)> {
    let mut intervals = Vec::new();
    let mut until_ms = now_ms;
    while until_ms > first_ms {
        let number = intervals.len() as i64;
        let from_ms = match number {
            // The last one has all that is older.
            OVERDUE.. => first_ms,
            _ => until_ms - MINUTE_MS,
        };
        intervals.push((from_ms, until_ms));
        until_ms = from_ms;
    }
    intervals
}

fn of(app: &KnownApp, now_ms: i64, overdue: &[DueWithin], coming: &[DueWithin]) -> Forecast {
    let backlog: u64 = overdue.iter().map(|interval| interval.jobs).sum();
    let limits = app.overrides.as_ref().map(|over| over.values).unwrap_or_default();
    let rate = limits.over(app.rules.policy.limits).rate_per_second.map(f64::from);
    let pace = rate.map_or(app.pace.per_second, |rate| rate.min(app.pace.per_second));
    Forecast {
        app_name: app.name.clone(),
        at_ms: now_ms,
        overdue: backlog,
        more_overdue: overdue.iter().any(|interval| interval.jobs > DueJobs::LIMIT),
        starts_per_second: pace,
        drained_in_seconds: drained_in(backlog, pace, coming),
        minutes: coming
            .iter()
            .map(|minute| ForecastMinute { from_ms: minute.from_ms, jobs: minute.jobs })
            .collect(),
    }
}

/// When a backlog is gone, with what comes meanwhile.
fn drained_in(backlog: u64, pace: f64, coming: &[DueWithin]) -> Option<u64> {
    let mut left = backlog as f64;
    if left == 0.0 {
        return Some(0);
    }
    for (number, minute) in coming.iter().enumerate() {
        let shrinks = pace - minute.jobs as f64 / 60.0;
        if shrinks * 60.0 >= left {
            return Some(60 * number as u64 + (left / shrinks).ceil() as u64);
        }
        left -= shrinks * 60.0;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(jobs: &[u64]) -> Vec<DueWithin> {
        jobs.iter().map(|jobs| DueWithin { from_ms: 0, until_ms: 0, jobs: *jobs }).collect()
    }

    #[test]
    fn a_backlog_is_gone_when_the_pace_has_caught_up_with_what_comes() {
        for (backlog, pace, coming, seconds) in [
            (0, 0.0, &[5][..], Some(0)),
            (100, 10.0, &[0, 0], Some(10)),
            (1_000, 10.0, &[300, 0, 0], Some(130)),
            (1_000, 10.0, &[600, 600], None),
            (1, 0.0, &[0], None),
        ] {
            assert_eq!(
                drained_in(backlog, pace, &minutes(coming)),
                seconds,
                "{backlog} {coming:?}"
            );
        }
    }

    #[test]
    fn what_is_overdue_is_counted_by_minutes_and_what_is_older_at_once() {
        let now_ms = 1_000_000_000;
        assert_eq!(before(now_ms + 1, now_ms), []);
        assert_eq!(before(now_ms - 1, now_ms), [(now_ms - MINUTE_MS, now_ms)]);
        let old = before(0, now_ms);
        assert_eq!(old.len() as i64, OVERDUE + 1);
        assert_eq!(old.last(), Some(&(0, now_ms - OVERDUE * MINUTE_MS)));
        assert!(old.windows(2).all(|pair| pair[0].0 == pair[1].1));
    }
}
