//! The proof by what producers were told: each record's fate by its place, each job's by its
//! order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::proof::{Complaints, Expected, Place};
use crate::support::kafka::RawRecord;

/// Verdicts, each once however often it came, in the order of its first coming.
#[derive(Debug)]
pub(super) struct Told(Vec<Verdict>);

#[derive(Debug)]
struct Verdict {
    request: Option<String>,
    name: String,
    job: Option<String>,
    /// The record that was judged.
    place: Option<Place>,
}

impl Told {
    pub(super) fn of(events: &[RawRecord]) -> Self {
        let mut seen = BTreeSet::new();
        let new = |event: &Value| seen.insert(event["id"].to_string());
        Self(events.iter().map(RawRecord::json).filter(new).map(Verdict::of).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Each record was told one fate: poison is rejected, of each group one is accepted, all
    /// others are duplicates.
    pub(super) fn judge_records(
        &self,
        expected: &Expected,
        topic: &[RawRecord],
        complaints: &mut Complaints,
    ) {
        let mut fates: BTreeMap<Place, Vec<&str>> = BTreeMap::new();
        let mut accepted = 0;
        for verdict in &self.0 {
            let Some(place) = verdict.place else { continue };
            fates.entry(place).or_default().push(&verdict.name);
            accepted += usize::from(verdict.name == "accepted");
        }
        let places: BTreeSet<Place> = topic.iter().map(|r| (r.partition, r.offset)).collect();
        let untold: Vec<_> = places.iter().filter(|place| !fates.contains_key(place)).collect();
        complaints.none("records were told no fate", &untold);
        let nowhere: Vec<_> = fates.keys().filter(|place| !places.contains(place)).collect();
        complaints.none("fates are of no record", &nowhere);
        let wrong: Vec<_> = fates
            .iter()
            .filter(|(place, fates)| match &fates[..] {
                ["rejected"] => !expected.poison.contains_key(place),
                ["accepted" | "duplicate"] => expected.poison.contains_key(place),
                _ => true,
            })
            .collect();
        complaints.none("records were told another fate", &wrong);
        let fewest = expected.groups.len();
        let most = fewest + expected.ambiguous.values().sum::<usize>();
        complaints.expect((fewest..=most).contains(&accepted), || {
            format!("{accepted} were told that they are jobs, of {fewest} (at most {most})")
        });
    }

    /// Each job was accepted before it fired, and fired before it succeeded.
    pub(super) fn judge_jobs(&self, expected: &Expected, complaints: &mut Complaints) {
        let mut jobs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for Verdict { request, name, job, .. } in &self.0 {
            if let (Some(request), Some(_), true) = (request, job, name != "duplicate") {
                jobs.entry(request).or_default().push(name);
            }
        }
        // Of these there may have been two jobs, one after the other.
        jobs.retain(|request, _| !expected.ambiguous.contains_key(*request));
        let one_after_another = ["accepted", "fired", "succeeded"];
        let wrong: Vec<_> = jobs.iter().filter(|(_, told)| **told != one_after_another).collect();
        complaints.none("jobs were told of in another order", &wrong);
    }
}

impl Verdict {
    fn of(event: Value) -> Self {
        let data = &event["data"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let place = data["partition"].as_i64().zip(data["offset"].as_i64());
        Self {
            request: text(&event["subject"]),
            name: text(&data["verdict"]).unwrap_or_default(),
            job: text(&data["jobId"]),
            place: place.map(|(partition, offset)| (partition as i32, offset)),
        }
    }
}
