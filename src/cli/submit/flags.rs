//! One request, built from options.

use std::time::Duration;

use crate::model::clock::SystemClock;
use crate::model::job::Priority;
use crate::model::letter::{ErrorKind, Refusal};
use crate::model::request::ScheduleJobRequest;
use crate::model::time::ScheduledTime;

/// The fields of one request.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "One request by flags")]
pub(super) struct Flags {
    /// The app of the job
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// When the job fires: 2030-01-01T08:00:00Z, a local time, or epoch milliseconds
    #[arg(long, value_name = "TIME", requires = "app", conflicts_with = "delay")]
    at: Option<String>,
    /// How soon the job fires: 250ms, 5s, 10m, 2h, 1d
    #[arg(long = "in", value_name = "DELAY", requires = "app", value_parser = delay)]
    delay: Option<Duration>,
    /// The jobData that the handler receives, a JSON object
    #[arg(long, value_name = "JSON", requires = "app")]
    data: Option<String>,
    /// The requestId; without it the scheduler generates one
    #[arg(long, value_name = "ID", requires = "app")]
    request_id: Option<String>,
    /// The idempotencyKey: all requests with the same key create one job
    #[arg(long, value_name = "KEY", requires = "app")]
    key: Option<String>,
    /// high, normal or low
    #[arg(long, requires = "app", value_parser = priority)]
    priority: Option<Priority>,
}

impl Flags {
    /// The request, if `--app` was given.
    pub(super) fn request(&self) -> Result<Option<ScheduleJobRequest>, Refusal> {
        let Some(app) = &self.app else { return Ok(None) };
        let mut builder = ScheduleJobRequest::builder(app);
        if let Some(at) = &self.at {
            builder = match at.parse().ok().and_then(ScheduledTime::from_epoch_ms) {
                Some(instant) => builder.at(instant),
                None => builder.at(at.as_str()),
            };
        }
        if let Some(delay) = self.delay {
            builder = builder.after(delay, &SystemClock);
        }
        if let Some(data) = &self.data {
            builder = builder.raw_job_data(data);
        }
        if let Some(id) = &self.request_id {
            builder = builder.request_id(id);
        }
        if let Some(key) = &self.key {
            builder = builder.idempotency_key(key);
        }
        let built = builder.priority(self.priority.unwrap_or_default()).build();
        built.map(Some).map_err(|refusal| match (&self.at, &self.delay, refusal.kind) {
            (None, None, ErrorKind::MissingField) => Refusal {
                message: "say when the job is to fire, by --at TIME or --in DELAY".into(),
                ..refusal
            },
            _ => refusal,
        })
    }
}

fn priority(text: &str) -> Result<Priority, &'static str> {
    text.parse().map_err(|()| "must be high, normal or low")
}

/// Parses a delay such as `5s`.
pub(in crate::cli) fn delay(text: &str) -> Result<Duration, &'static str> {
    const WANTED: &str = "must be a whole number and ms, s, m, h or d, as in 5s";
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(WANTED)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| WANTED)?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(WANTED),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or("is too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_a_number_and_a_unit() {
        for (text, ms) in [
            ("250ms", 250),
            ("5s", 5000),
            ("0s", 0),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(delay(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "1.5s",
            "5 s",
            "5w",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(delay(text).is_err(), "{text}");
        }
    }

    fn flags() -> Flags {
        Flags {
            app: Some("sms".into()),
            at: None,
            delay: None,
            data: None,
            request_id: None,
            key: None,
            priority: None,
        }
    }

    #[test]
    fn a_time_is_text_or_epoch_milliseconds() {
        for (at, meant) in [
            ("2030-01-01T08:00:00Z", "2030-01-01T08:00:00Z"),
            ("1893484800000", "2030-01-01T08:00:00Z"),
            ("2030-01-01T08:00:00", "2030-01-01T08:00:00"),
        ] {
            let request = Flags { at: Some(at.into()), ..flags() }.request().unwrap().unwrap();
            assert_eq!(request.scheduled_time.unwrap().to_string(), meant);
        }
        let refusal = flags().request().unwrap_err();
        assert!(refusal.message.contains("--at TIME or --in DELAY"), "{refusal}");
        assert!(Flags { at: Some("soon".into()), ..flags() }.request().is_err());
    }

    #[test]
    fn without_an_app_there_is_no_request_by_flags() {
        assert_eq!(Flags { app: None, ..flags() }.request(), Ok(None));
    }
}
