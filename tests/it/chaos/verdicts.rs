//! The proof by the published verdicts: those of records by their offsets, those of jobs by their
//! order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::operators;
use super::proof::{Complaints, Expected, Place};
use crate::support::kafka::RawRecord;

/// Verdicts, each once however often it came, in the order of its first coming.
#[derive(Debug)]
pub(super) struct Published(Vec<Verdict>);

#[derive(Debug)]
struct Verdict {
    request: Option<String>,
    name: String,
    job: Option<String>,
    /// The record that the verdict is about.
    place: Option<Place>,
}

impl Published {
    pub(super) fn of(events: &[RawRecord]) -> Self {
        let mut seen = BTreeSet::new();
        let new = |event: &Value| seen.insert(event["id"].to_string());
        Self(events.iter().map(RawRecord::json).filter(new).map(Verdict::of).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Each record has one verdict: poison is rejected, of each group one is accepted, all
    /// others are duplicates.
    pub(super) fn check_records(
        &self,
        expected: &Expected,
        topic: &[RawRecord],
        complaints: &mut Complaints,
    ) {
        let mut verdicts: BTreeMap<Place, Vec<&str>> = BTreeMap::new();
        let mut accepted = 0;
        for verdict in &self.0 {
            let Some(place) = verdict.place else { continue };
            verdicts.entry(place).or_default().push(&verdict.name);
            accepted += usize::from(verdict.name == "accepted");
        }
        let places: BTreeSet<Place> = topic.iter().map(|r| (r.partition, r.offset)).collect();
        let missing: Vec<_> = places.iter().filter(|place| !verdicts.contains_key(place)).collect();
        complaints.none("records have no verdict", &missing);
        let nowhere: Vec<_> = verdicts.keys().filter(|place| !places.contains(place)).collect();
        complaints.none("verdicts are of no record", &nowhere);
        let wrong: Vec<_> = verdicts
            .iter()
            .filter(|(place, verdicts)| match &verdicts[..] {
                ["rejected"] => !expected.poison.contains_key(place),
                ["accepted" | "duplicate"] => expected.poison.contains_key(place),
                _ => true,
            })
            .collect();
        complaints.none("records have another verdict", &wrong);
        let fewest = expected.groups.len();
        let most = fewest + expected.ambiguous.values().sum::<usize>();
        complaints.expect((fewest..=most).contains(&accepted), || {
            format!("{accepted} were accepted, of {fewest} (at most {most})")
        });
    }

    /// Each job was accepted before it fired, and fired before it succeeded.
    pub(super) fn check_jobs(&self, expected: &Expected, complaints: &mut Complaints) {
        let mut jobs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for Verdict { request, name, job, .. } in &self.0 {
            if let (Some(request), Some(_), true) = (request, job, name != "duplicate") {
                jobs.entry(request).or_default().push(name);
            }
        }
        // Of these there may have been two jobs, one after the other.
        jobs.retain(|request, _| !expected.ambiguous.contains_key(*request));
        jobs.retain(|request, _| !operators::have_asked_for(request));
        let is_right = |request: &str, published: &[&str]| match published {
            ["accepted", "dead"] => expected.interrupted.contains_key(request),
            published => *published == ["accepted", "fired", "succeeded"],
        };
        let wrong: Vec<_> =
            jobs.iter().filter(|(request, published)| !is_right(request, published)).collect();
        complaints.none("verdicts of jobs in another order", &wrong);
    }
}

impl Published {
    /// The verdicts that end the job of each request.
    pub(super) fn ends(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut ends: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for Verdict { request, name, .. } in &self.0 {
            if let (Some(request), "succeeded" | "cancelled" | "dead") = (request, name.as_str()) {
                ends.entry(request).or_default().push(name);
            }
        }
        ends
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
