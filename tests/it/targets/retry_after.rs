//! `Retry-After` in all its forms.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::SystemTime;

use chrono::{DateTime, TimeDelta, Utc};

use super::http::{OK, http};
use super::receiver::{Heard, Receiver, Then};
use super::{DEADLINE, DRAIN, fire_to, schedule_to};
use crate::support::wait_until;

/// The first answer, by what its headers are.
#[derive(Clone, Copy)]
enum Form {
    /// These lines.
    Lines(&'static str),
    /// Three seconds from now in this form, by a clock that is so many hours behind.
    Date(&'static str, i64),
}

use Form::*;

const IMF: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// A status, a form, and after what time the second call comes, in seconds: from, to.
const FORMS: &[(u16, Form, f64, f64)] = &[
    (503, Lines("Retry-After: 3\r\n"), 3.0, 3.6),
    (408, Lines("Retry-After: 3\r\n"), 3.0, 3.6),
    (425, Lines("Retry-After: 3\r\n"), 3.0, 3.6),
    (429, Lines("Retry-After: 3\r\n"), 3.0, 3.6),
    (503, Date(IMF, 0), 3.0, 3.6),
    (503, Date("%A, %d-%b-%y %H:%M:%S GMT", 0), 3.0, 3.6),
    (503, Date("%a %b %e %H:%M:%S %Y", 0), 3.0, 3.6),
    (503, Date(IMF, 1), 3.0, 3.6),
    (503, Lines("Retry-After: 0\r\n"), 1.0, 1.4),
    (503, Lines("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), 1.0, 1.4),
    (503, Lines("Retry-After: -5\r\n"), 1.0, 1.4),
    (503, Lines("Retry-After: +3\r\n"), 1.0, 1.4),
    (503, Lines("Retry-After: 1.5\r\n"), 1.0, 1.4),
    (503, Lines("Retry-After: 3, 5\r\n"), 1.0, 1.4),
    (503, Lines("Retry-After: soon\r\n"), 1.0, 1.4),
    (503, Lines("Retry-After: \r\n"), 1.0, 1.4),
    (503, Lines("Retry-After: 2\r\nRetry-After: 4\r\n"), 4.0, 4.8),
    // No longer than an hour.
    (503, Lines("Retry-After: 86400\r\n"), f64::INFINITY, 0.0),
    (503, Lines("Retry-After: 99999999999999999999\r\n"), f64::INFINITY, 0.0),
];

fn first_answer(app: &str) -> (String, Then) {
    let (status, form, ..) = FORMS[number(app)];
    let lines = match form {
        Lines(lines) => lines.to_owned(),
        Date(form, behind) => {
            let now = DateTime::<Utc>::from(SystemTime::now()) - TimeDelta::hours(behind);
            let until = now + TimeDelta::seconds(3);
            format!("Date: {}\r\nRetry-After: {}\r\n", now.format(IMF), until.format(form))
        }
    };
    let head = format!("HTTP/1.1 {status} X\r\n{lines}Connection: close\r\n");
    (format!("{head}Content-Length: 0\r\n\r\n"), Then::Close)
}

fn app_of(heard: &Heard) -> &str {
    &heard.headers["x-scheduler-app-name"]
}

fn number(app: &str) -> usize {
    app.trim_start_matches('f').parse().expect("a number")
}

/// Each form has an app of its own, since a 503 holds all jobs of its app.
#[tokio::test(flavor = "multi_thread")]
async fn each_form_is_honoured_and_what_is_none_is_as_if_it_were_absent() {
    let met = Mutex::new(BTreeSet::new());
    let receiver = Receiver::deciding(move |heard, _| {
        let app = app_of(heard);
        match met.lock().expect("a lock").insert(app.to_owned()) {
            true => first_answer(app),
            false => (OK.0.to_owned(), OK.1),
        }
    })
    .await;
    let url = http(&receiver.url());
    let app = |n| format!("[apps.f{n}]\nshards = 1\nbackoff = {{ delays_ms = [1000] }}\n{url}");
    let apps: String = (0..FORMS.len()).map(app).collect();
    let (database, scheduler) = fire_to(&format!("{url}{apps}")).await;
    for n in 0..FORMS.len() {
        schedule_to(&scheduler, &format!("f{n}"), "r").await;
    }
    let in_an_hour = FORMS.iter().filter(|(_, _, from, _)| from.is_infinite()).count();
    wait_until(DEADLINE, "an end of all jobs but those", async || {
        let left = database.count("select count(*) from scheduler_job").await;
        usize::try_from(left) == Ok(in_an_hour)
    })
    .await;
    let heard = receiver.heard();
    for (n, (status, _, from, to)) in FORMS.iter().enumerate() {
        let calls: Vec<&Heard> = heard.iter().filter(|it| number(app_of(it)) == n).collect();
        if from.is_infinite() {
            assert_eq!(calls.len(), 1, "{n}");
            continue;
        }
        assert_eq!(calls.len(), 2, "{n}");
        let waited = (calls[1].at - calls[0].at).as_secs_f64();
        // A loaded machine may start it later, but never earlier.
        assert!(waited >= *from && waited < to + 1.0, "{n}, {status}: {waited} s");
        let attempt = if *status == 429 { "1" } else { "2" };
        assert_eq!(calls[1].headers["x-scheduler-attempt"], attempt, "{n}");
    }
    let now_ms = DateTime::<Utc>::from(SystemTime::now()).timestamp_millis();
    let (from, to) = (now_ms + 3_500_000, now_ms + 3_600_000 * 11 / 10);
    let query = format!("select count(*) from scheduler_job where due_ms between {from} and {to}");
    assert_eq!(usize::try_from(database.count(&query).await), Ok(in_an_hour));
    scheduler.shutdown(DRAIN).await;
}
