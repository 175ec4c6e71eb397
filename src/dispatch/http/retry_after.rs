//! The header `Retry-After` of an answer.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// A target cannot postpone a job for longer.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// How long the answer asks to wait, at most an hour; `None` if it does not, or not in a form of
/// the standard. If it does so several times, the longest holds.
pub(super) fn wanted(headers: &HeaderMap) -> Option<Duration> {
    let each = headers.get_all(RETRY_AFTER).iter();
    each.filter_map(|value| wait(value.to_str().ok()?.trim(), headers)).max()
}

fn wait(text: &str, headers: &HeaderMap) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // What is too large for the type is more than an hour as well.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)).min(LONGEST));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    // By the target's own clock, since it may differ from ours.
    let now = httpdate::parse_http_date(only(headers, DATE)?).ok()?;
    Some(until.duration_since(now).unwrap_or_default().min(LONGEST))
}

/// The value of a header that is there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(after: &[&str], date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in after {
            headers.append(RETRY_AFTER, value.parse().unwrap());
        }
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        wanted(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_and_dates_are_waits_and_everything_else_is_absent() {
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        for (after, expected) in [
            ("3", Some(3)),
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("86400", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
            ("Sun Nov  6 08:49:47 1994", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("Mon, 07 Nov 1994 08:49:27 GMT", Some(3600)),
            ("-1", None),
            ("1.5", None),
            ("3 s", None),
            ("", None),
            ("1994-11-06T08:49:47Z", None),
        ] {
            assert_eq!(seconds(&[after], date), expected, "{after:?}");
        }
        assert_eq!(seconds(&[], date), None);
        assert_eq!(seconds(&["3", "4"], date), Some(4));
        assert_eq!(seconds(&["3", "soon"], date), Some(3));
        assert_eq!(seconds(&["3"], None), Some(3));
        assert_eq!(seconds(&["Sun, 06 Nov 1994 08:49:47 GMT"], None), None);
    }
}
