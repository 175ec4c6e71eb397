//! An operator's rules for requests: the default time zone, and how far ahead jobs may be
//! scheduled.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use jiff::tz::TimeZone;

use super::{ErrorKind, Refusal, ScheduleJobRequest, ScheduledTime};
use crate::model::ids::JobId;
use crate::model::job::instant_of;

/// An operator's rules for the times of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The time zone of local date-times. Default UTC.
    pub default_time_zone: TimeZone,
    /// How far ahead of now a job may be scheduled. Default 3650 days.
    pub max_schedule_ahead: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        let max_schedule_ahead = Duration::from_secs(3650 * DAY_S);
        Self { default_time_zone: TimeZone::UTC, max_schedule_ahead }
    }
}

const DAY_S: u64 = 24 * 60 * 60;

/// The times of a request as epoch milliseconds, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// When the job is scheduled to fire, also if that is in the past.
    pub scheduled_ms: i64,
    /// How long after that it may fire.
    pub flexible_ms: Option<u64>,
    /// The job is not fired after this moment.
    pub expires_ms: Option<i64>,
}

impl Resolved {
    /// When the first attempt at the job with this id is to start.
    pub fn due_ms(&self, id: JobId) -> i64 {
        instant_of(id, self.scheduled_ms, self.flexible_ms, self.expires_ms)
    }
}

impl ScheduleJobRequest {
    /// Resolves its times by `rules`; `now_ms` is the current time in epoch milliseconds.
    ///
    /// A cancellation without a time is refused, since there is nothing to resolve.
    ///
    /// # Errors
    /// [`ErrorKind::ScheduleTooFar`] if it may fire beyond `max_schedule_ahead`, [`ErrorKind::MissingField`]
    /// without `scheduledTime`, [`ErrorKind::InvalidField`] if it expires before it fires.
    pub fn resolve(&self, rules: &Rules, now_ms: i64) -> Result<Resolved, Refusal> {
        self.times(rules, now_ms).map_err(|refusal| self.with_identity(refusal))
    }

    fn times(&self, rules: &Rules, now_ms: i64) -> Result<Resolved, Refusal> {
        let zone = &rules.default_time_zone;
        let scheduled = self.scheduled_time.ok_or_else(|| self.missing_time())?;
        let scheduled_ms = epoch_ms("scheduledTime", scheduled, zone)?;
        let max_ahead_ms = i64::try_from(rules.max_schedule_ahead.as_millis()).unwrap_or(i64::MAX);
        if scheduled_ms.saturating_sub(now_ms) > max_ahead_ms {
            return Err(too_far(&shown(scheduled, scheduled_ms, zone), rules));
        }
        let expires_ms =
            self.expires_time.map(|time| epoch_ms("expiresTime", time, zone)).transpose()?;
        if let (Some(expires), Some(expires_ms)) = (self.expires_time, expires_ms)
            && expires_ms < scheduled_ms
        {
            let (expires, scheduled) =
                (shown(expires, expires_ms, zone), shown(scheduled, scheduled_ms, zone));
            let message = format!(
                "expiresTime {expires} is before scheduledTime {scheduled}: the job would never fire"
            );
            return Err(Refusal::new(ErrorKind::InvalidField, message));
        }
        let flexible_ms = self.flexible_window_ms;
        let latest_ms = scheduled_ms
            .saturating_add_unsigned(flexible_ms.unwrap_or(0))
            .min(expires_ms.unwrap_or(i64::MAX));
        if latest_ms.saturating_sub(now_ms) > max_ahead_ms {
            return Err(window_too_long(flexible_ms.unwrap_or(0), rules));
        }
        Ok(Resolved { scheduled_ms, flexible_ms, expires_ms })
    }
}

fn epoch_ms(field: &str, time: ScheduledTime, zone: &TimeZone) -> Result<i64, Refusal> {
    time.resolve_ms(zone).ok_or_else(|| {
        let place = name(zone);
        let message = format!("{field} {time} in {place} is outside the years 0 to 9999 in UTC");
        Refusal::new(ErrorKind::InvalidField, message)
    })
}

/// `time` as text, and for a local one also its instant: the producer cannot see from the request
/// in which zone it is interpreted.
fn shown(time: ScheduledTime, ms: i64, zone: &TimeZone) -> String {
    match (time, DateTime::from_timestamp_millis(ms)) {
        (ScheduledTime::Local(_), Some(instant)) => {
            let instant = instant.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            format!("{time} ({instant}, read in {})", name(zone))
        }
        _ => time.to_string(),
    }
}

fn name(zone: &TimeZone) -> &str {
    zone.iana_name().unwrap_or("the default time zone")
}

fn too_far(scheduled: &str, rules: &Rules) -> Refusal {
    let days = rules.max_schedule_ahead.as_secs() / DAY_S;
    let message = format!(
        "scheduledTime {scheduled} is more than {days} days ahead, the scheduler's \
         max_schedule_ahead: ask again nearer to that time"
    );
    Refusal::new(ErrorKind::ScheduleTooFar, message)
}

fn window_too_long(flexible_ms: u64, rules: &Rules) -> Refusal {
    let days = rules.max_schedule_ahead.as_secs() / DAY_S;
    let message = format!(
        "flexibleWindowMs {flexible_ms} lets the job fire more than {days} days ahead, the \
         scheduler's max_schedule_ahead: ask for a shorter window"
    );
    Refusal::new(ErrorKind::ScheduleTooFar, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::zones;

    const NOW_MS: i64 = 1_762_185_600_000;
    const DAY_MS: i64 = DAY_S as i64 * 1000;

    fn resolve(times: &str, zone: &str) -> Result<Resolved, Refusal> {
        let json = format!(r#"{{"appName":"sms","requestId":"r1",{times}}}"#);
        let rules = Rules { default_time_zone: zones::bundled(zone), ..Rules::default() };
        ScheduleJobRequest::from_json(json.as_bytes()).unwrap().resolve(&rules, NOW_MS)
    }

    fn check(times: &str, zone: &str, scheduled_ms: i64, expires_ms: Option<i64>) {
        let expected = Resolved { scheduled_ms, flexible_ms: None, expires_ms };
        assert_eq!(resolve(times, zone), Ok(expected), "{times}");
        assert_eq!(expected.due_ms(JobId::derive("sms", "r1")), scheduled_ms, "{times}");
    }

    #[test]
    fn a_window_ends_where_the_job_expires_and_within_the_limit_ahead() {
        let id = JobId::derive("sms", "r1");
        let limit = NOW_MS + 3650 * DAY_MS;
        let check = |times: &str, range: std::ops::RangeInclusive<i64>| {
            let due_ms = resolve(times, "UTC").unwrap().due_ms(id);
            assert!(range.contains(&due_ms), "{times}: {due_ms}");
        };
        check(r#""scheduledTime":7,"flexibleWindowMs":0"#, 7..=7);
        check(r#""scheduledTime":7,"flexibleWindowMs":9"#, 7..=16);
        check(r#""scheduledTime":7,"flexibleWindowMs":9,"expiresTime":8"#, 7..=8);
        let times = format!("\"scheduledTime\":{NOW_MS},\"flexibleWindowMs\":");
        check(&format!("{times}{}", 3650 * DAY_MS), NOW_MS..=limit);
        check(&format!("{times}{},\"expiresTime\":{limit}", i64::MAX), NOW_MS..=limit);
        let refusal = resolve(&format!("{times}{}", 3650 * DAY_MS + 1), "UTC").unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::ScheduleTooFar);
        assert!(refusal.message.starts_with("flexibleWindowMs 3"), "{refusal}");
        assert!(refusal.message.contains("3650 days"), "{refusal}");
    }

    #[test]
    fn local_times_are_read_in_the_zone_of_the_rules() {
        let local = r#""scheduledTime":"2025-11-03T22:00","expiresTime":[2025,11,3,23,0]"#;
        let hour = 3_600_000;
        check(local, "Asia/Dhaka", NOW_MS, Some(NOW_MS + hour));
        check(local, "Europe/Berlin", NOW_MS + 5 * hour, Some(NOW_MS + 6 * hour));
        let gap = r#""scheduledTime":"2026-03-29T02:30""#;
        check(gap, "Europe/Berlin", 1_774_746_000_000, None);
    }

    #[test]
    fn the_past_is_due_as_it_was_scheduled() {
        check(r#""scheduledTime":-5"#, "UTC", -5, None);
    }

    #[test]
    fn the_limit_ahead_is_ten_years_of_days_unless_it_is_set() {
        assert_eq!(Rules::default().max_schedule_ahead, Duration::from_secs(315_360_000));
        assert_eq!(Rules::default().default_time_zone, TimeZone::UTC);
    }

    #[test]
    fn the_limit_ahead_is_exact() {
        let limit = NOW_MS + 3650 * DAY_MS;
        check(&format!("\"scheduledTime\":{limit}"), "UTC", limit, None);
        for beyond in [limit + 1, 253_402_300_799_999] {
            let refusal = resolve(&format!("\"scheduledTime\":{beyond}"), "UTC").unwrap_err();
            assert_eq!(refusal.kind, ErrorKind::ScheduleTooFar);
            assert!(refusal.message.contains("3650 days"), "{refusal}");
            assert_eq!(refusal.request_id.as_deref(), Some("r1"));
            assert_eq!(refusal.app.as_deref(), Some("sms"));
        }
    }

    #[test]
    fn a_job_that_expires_before_it_fires_is_refused_by_both_names() {
        check(r#""scheduledTime":7,"expiresTime":7"#, "UTC", 7, Some(7));
        let refusal = resolve(r#""scheduledTime":7,"expiresTime":6"#, "UTC").unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::InvalidField);
        assert!(refusal.message.contains("expiresTime"), "{refusal}");
        assert!(refusal.message.contains("scheduledTime"), "{refusal}");
    }

    #[test]
    fn a_refusal_says_which_instant_a_local_time_became() {
        for (times, said) in [
            (
                r#""scheduledTime":"2040-01-01T00:00""#,
                "scheduledTime 2040-01-01T00:00:00 (2039-12-31T18:00:00Z, read in Asia/Dhaka) is \
                 more than 3650 days ahead",
            ),
            (r#""scheduledTime":"2040-01-01T00:00Z""#, "scheduledTime 2040-01-01T00:00:00Z is"),
            (
                r#""scheduledTime":"2026-01-01T00:00","expiresTime":"2025-12-31T17:00:00Z""#,
                "expiresTime 2025-12-31T17:00:00Z is before scheduledTime 2026-01-01T00:00:00 \
                 (2025-12-31T18:00:00Z, read in Asia/Dhaka): the",
            ),
            (
                r#""scheduledTime":0,"expiresTime":[0,1,1,0,0]"#,
                "expiresTime 0000-01-01T00:00:00 in Asia/Dhaka is outside the years 0 to 9999",
            ),
        ] {
            let refusal = resolve(times, "Asia/Dhaka").unwrap_err();
            assert!(refusal.message.contains(said), "{refusal}");
        }
    }

    #[test]
    fn without_a_time_there_is_nothing_to_resolve() {
        let cancel = r#""operation":"cancel","targetRequestId":"t""#;
        let refusal = resolve(cancel, "UTC").unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::MissingField);
    }
}
