//! Job data: which data is accepted, and which fields an app may require.

use std::collections::HashMap;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{ErrorKind, JobData, Name, Refusal, invalid};

/// Returns `raw` as job data, if it is an object.
pub(super) fn job_data(raw: &RawValue) -> Result<JobData, Refusal> {
    if raw.get().starts_with('{') {
        Ok(JobData::from(raw.to_owned()))
    } else {
        Err(invalid("jobData", raw.get(), "a JSON object"))
    }
}

/// Checks that `data` has every one of an app's required `fields`; `null` counts as missing.
///
/// # Errors
/// [`ErrorKind::RefusedByApp`] names all the fields that are missing.
pub fn check_required_fields(data: &JobData, fields: &[String]) -> Result<(), Refusal> {
    if fields.is_empty() {
        return Ok(());
    }
    let refused = |message| Refusal::new(ErrorKind::RefusedByApp, message);
    let present: HashMap<Name<'_>, Option<IgnoredAny>> = serde_json::from_str(data.as_str())
        .map_err(|error| refused(format!("the fields of jobData cannot be read: {error}")))?;
    let is_missing = |field: &&String| {
        present.get(&Name(Some(field.as_str().into()))).is_none_or(Option::is_none)
    };
    let missing: Vec<_> = fields.iter().filter(is_missing).map(String::as_str).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(refused(format!("jobData lacks what the app requires: {}", missing.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(data: &str, missing: Option<&str>) {
        let fields = ["phoneNumber", "message"].map(str::to_owned);
        match (check_required_fields(&JobData::from_trusted(data), &fields), missing) {
            (Ok(()), None) => {}
            (Err(refusal), Some(missing)) => {
                assert_eq!(refusal.kind, ErrorKind::RefusedByApp, "{data}");
                assert!(refusal.message.ends_with(missing), "{data}: {refusal}");
            }
            (result, _) => panic!("{data}: {result:?}"),
        }
    }

    #[test]
    fn all_missing_fields_are_named() {
        check(r#"{"phoneNumber":"1","message":"hi","more":[1]}"#, None);
        check(r#"{"\u0070honeNumber":0,"message":""}"#, None);
        check(r#"{"message":"hi"}"#, Some(": phoneNumber"));
        check("{}", Some(": phoneNumber, message"));
        check(r#"{"phoneNumber":"1","nested":{"message":"hi"}}"#, Some(": message"));
    }

    #[test]
    fn null_counts_as_missing_and_the_last_of_a_repeated_field_counts() {
        check(r#"{"phoneNumber":"1","message":null}"#, Some(": message"));
        check(r#"{"phoneNumber":"1","message":null,"message":1}"#, None);
        check(r#"{"phoneNumber":"1","message":1,"message":null}"#, Some(": message"));
    }

    #[test]
    fn an_unpaired_surrogate_in_a_name_hides_no_other_field() {
        check(r#"{"\ud800":1,"phoneNumber":"\udc00","message":"cut \ud83d"}"#, None);
        check(r#"{"\ud800":1,"message\ud83d":1}"#, Some(": phoneNumber, message"));
    }

    #[test]
    fn an_app_that_requires_nothing_takes_anything() {
        assert_eq!(check_required_fields(&JobData::default(), &[]), Ok(()));
    }
}
