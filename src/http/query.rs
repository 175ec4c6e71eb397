//! The query string, read strictly: an unknown, repeated, empty or malformed parameter is refused,
//! since ignoring a filter would match everything.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use percent_encoding::percent_decode_str;

use super::problem::Problem;
use crate::model::suggest::nearest;
use crate::model::time::ScheduledTime;

/// The parameters of a list's page, which are no part of its filter.
pub(super) const PAGE: [&str; 2] = ["limit", "cursor"];

/// The default number of items of a page.
const DEFAULT_LIMIT: u64 = 100;
/// The maximum number of items of a page.
const MAX_LIMIT: u64 = 1000;

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Query(BTreeMap<&'static str, String>);

impl Query {
    /// The parameters of `request`, each one of `known` and given once.
    pub(super) fn read(request: &HttpRequest, known: &[&'static str]) -> Result<Self, Problem> {
        Self::parse(request.query_string(), known)
    }

    fn parse(text: &str, known: &[&'static str]) -> Result<Self, Problem> {
        let mut parameters = BTreeMap::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decoded(name)?;
            let Some(known) = known.iter().find(|known| **known == name) else {
                return Err(unknown(&name, known));
            };
            let value = decoded(value)?;
            if value.is_empty() {
                return Err(Problem::bad_parameter(known, "is empty: leave it out"));
            }
            if parameters.insert(*known, value).is_some() {
                return Err(Problem::bad_parameter(known, "is given twice: give it once"));
            }
        }
        Ok(Self(parameters))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether it is `true`; `false` when it is absent.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                Err(Problem::bad_parameter(name, format!("is {other:?}: give true or false")))
            }
        }
    }

    /// One of these names.
    pub(super) fn one_of<T: Copy>(
        &self,
        name: &str,
        known: &[(&'static str, T)],
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        if let Some((_, value)) = known.iter().find(|(known, _)| *known == text) {
            return Ok(Some(*value));
        }
        let names: Vec<&str> = known.iter().map(|(known, _)| *known).collect();
        let guess = nearest(text, names.iter().copied()).unwrap_or_default();
        let names = names.join(", ");
        let problem = format!("is {text:?}, which is none of {names}: did you mean {guess:?}?");
        Err(Problem::bad_parameter(name, problem))
    }

    /// A time with an offset, as epoch milliseconds.
    pub(super) fn instant_ms(&self, name: &str) -> Result<Option<i64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let example = "give RFC 3339 with an offset, as in 2030-01-01T08:00:00Z";
        match text.parse::<ScheduledTime>() {
            Ok(time @ ScheduledTime::Instant(_)) => {
                match time.resolve_ms(&jiff::tz::TimeZone::UTC) {
                    Some(ms) => Ok(Some(ms)),
                    None => Err(Problem::bad_parameter(name, format!("is {text}: {example}"))),
                }
            }
            Ok(ScheduledTime::Local(_)) => Err(Problem::bad_parameter(
                name,
                format!("is {text}, without an offset: {example}"),
            )),
            Err(_) if lost_plus(text) => Err(Problem::bad_parameter(
                name,
                format!("is {text:?}, with a blank where the + of an offset was: write %2B"),
            )),
            Err(error) => Err(Problem::bad_parameter(name, format!("{error}; {example}"))),
        }
    }

    /// How many items a page has at most.
    pub(super) fn limit(&self) -> Result<u64, Problem> {
        let Some(text) = self.text("limit") else { return Ok(DEFAULT_LIMIT) };
        let digits = !text.starts_with('+');
        let limit = text.parse().ok().filter(|limit| digits && (1..=MAX_LIMIT).contains(limit));
        limit.ok_or_else(|| {
            let problem = format!("is {text:?}: give a whole number from 1 to {MAX_LIMIT}");
            Problem::bad_parameter("limit", problem)
        })
    }

    /// The parameters of the filter, which are all but those of the page.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let filter = self.0.iter().filter(|(name, _)| !PAGE.contains(name));
        filter.map(|(name, value)| (*name, value.as_str()))
    }

    /// The filter in one form.
    pub(super) fn filter(&self) -> String {
        self.pairs().map(|(name, value)| format!("{name}={value}\n")).collect()
    }
}

fn decoded(text: &str) -> Result<String, Problem> {
    let text = text.replace('+', " ");
    match percent_decode_str(&text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => {
            let detail = "the query is not UTF-8: percent-encode the bytes of UTF-8 text";
            Err(Problem::bad("invalid-query", detail))
        }
    }
}

fn unknown(name: &str, known: &[&'static str]) -> Problem {
    let shown: String = name.chars().take(100).collect();
    let way_out = match nearest(name, known.iter().copied()) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "there are none here: leave it out".to_owned(),
    };
    Problem::bad_parameter(&shown, format!("is not known: {way_out}"))
}

/// `2030-01-01T08:00:00 02:00` had `+02:00` before decoding, which turns an unescaped plus into a
/// space.
fn lost_plus(text: &str) -> bool {
    text.rsplit_once(' ')
        .is_some_and(|(time, offset)| format!("{time}+{offset}").parse::<ScheduledTime>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 6] = ["app", "state", "from", "dryRun", "limit", "cursor"];

    fn said<T>(result: Result<T, Problem>) -> String {
        result.err().map(|problem| problem.to_string()).unwrap_or_default()
    }

    #[test]
    fn nothing_unknown_repeated_or_empty_is_ignored() {
        for (text, meant) in [
            ("", ""),
            ("app=sms&&state=dead", ""),
            ("app=a%20b+c", ""),
            ("apps=sms", "apps is not known: did you mean app?"),
            ("dryrun=true", "did you mean dryRun?"),
            ("app=sms&app=sms", "app is given twice"),
            ("app=", "app is empty"),
            ("app", "app is empty"),
            ("app=%ff", "not UTF-8"),
        ] {
            let said = said(Query::parse(text, &KNOWN));
            assert!(
                if meant.is_empty() { said.is_empty() } else { said.contains(meant) },
                "{text}: {said}"
            );
        }
    }

    #[test]
    fn values_are_what_they_must_be() {
        let read = |text: &str| Query::parse(text, &KNOWN).unwrap();
        for text in ["limit=0", "limit=1001", "limit=-1", "limit=1e2", "limit=%2B5", "limit=x"] {
            assert!(said(read(text).limit()).contains("from 1 to 1000"), "{text}");
        }
        assert_eq!(read("limit=37").limit().unwrap(), 37);
        assert_eq!(read("").limit().unwrap(), 100);
        assert!(read("dryRun=true").flag("dryRun").unwrap());
        assert!(said(read("dryRun=1").flag("dryRun")).contains("give true or false"));
        let states = [("dead", 1), ("parked", 2)];
        assert_eq!(read("state=parked").one_of("state", &states).unwrap(), Some(2));
        assert!(said(read("state=ded").one_of("state", &states)).contains("mean \"dead\""));
        let epoch = read("from=1970-01-01T02:00:00%2B02:00").instant_ms("from");
        assert_eq!(epoch.unwrap(), Some(0));
        for (text, meant) in [
            ("from=1970-01-01T02:00:00+02:00", "write %2B"),
            ("from=1970-01-01T02:00:00", "without an offset"),
            ("from=yesterday", "RFC 3339"),
        ] {
            let said = said(read(text).instant_ms("from"));
            assert!(said.contains(meant), "{text}: {said}");
        }
    }

    #[test]
    fn the_filter_does_not_depend_on_order_or_page() {
        let filter = |text| Query::parse(text, &KNOWN).unwrap().filter();
        assert_eq!(filter("state=dead&app=a&limit=3"), filter("app=a&cursor=x&state=dead"));
        assert_ne!(filter("app=a"), filter("app=b"));
    }
}
