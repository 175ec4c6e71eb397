//! Interruptions: attempts that ended with their instance, and how careful a job is started after
//! them.
//!
//! A job whose handler ends the process is found by elimination. Any of the jobs that ran at that
//! moment may have done it, so they are started again in smaller and smaller company, until one of
//! them runs alone when its instance ends.

use serde::{Deserialize, Serialize};

/// An attempt that ended with its instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interruption {
    /// The name of the instance.
    pub instance: String,
    /// When the attempt had started, epoch milliseconds.
    pub started_ms: i64,
}

/// In which company a job starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// Any.
    Usual,
    /// At most [`SMALL`](Self::SMALL) jobs that were interrupted as often.
    Small,
    /// No other job that was interrupted, or that is watched because its instance died.
    None,
}

impl Company {
    /// The most jobs of a small company.
    pub const SMALL: usize = 16;

    /// That of a job with these interruptions; `None` if it must not start any more, since its
    /// instance ended when it ran alone.
    pub fn after(interruptions: &[Interruption]) -> Option<Self> {
        match interruptions.len() {
            0 | 1 => Some(Self::Usual),
            2 => Some(Self::Small),
            3 => Some(Self::None),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupted(times: usize) -> Vec<Interruption> {
        let one = |n| Interruption { instance: "a".into(), started_ms: n as i64 * 1000 };
        (0..times).map(one).collect()
    }

    #[test]
    fn a_job_starts_in_smaller_company_each_time_that_it_was_interrupted() {
        for (times, company) in [
            (0, Some(Company::Usual)),
            (1, Some(Company::Usual)),
            (2, Some(Company::Small)),
            (3, Some(Company::None)),
            (4, None),
            (5, None),
        ] {
            assert_eq!(Company::after(&interrupted(times)), company, "{times}");
        }
    }

    #[test]
    fn an_interruption_is_stored_as_an_object() {
        let text = serde_json::to_string(&interrupted(1)).unwrap();
        assert_eq!(text, r#"[{"instance":"a","startedMs":0}]"#);
        assert_eq!(serde_json::from_str::<Vec<Interruption>>(&text).unwrap(), interrupted(1));
    }
}
