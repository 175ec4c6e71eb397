//! The proof of what operators were told: an answer is true, whatever happens after it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::operators::{BulkEnd, Known, Notes, Operated};
use super::proof::{Complaints, Evidence};
use super::tables::Tables;
use super::verdicts::Published;
use crate::support::kafka::RawRecord;

/// Records of one job on the topic of fired jobs: when, and its data.
type Firings = BTreeMap<String, Vec<(i64, Value)>>;

/// Compares what operators know with topics and tables.
pub(super) async fn check(evidence: &Evidence, tables: &Tables, complaints: &mut Complaints) {
    let notes = &evidence.operated;
    let firings = firings_of(&evidence.operated_fired);
    for job in &notes.jobs {
        check_job(evidence, job, firings.get(&job.request).map_or(&[], Vec::as_slice), complaints);
    }
    for bulk in &notes.bulks {
        check_bulk(bulk, &firings, complaints);
    }
    check_verdicts(notes, &Published::of(&evidence.events), complaints);
    check_tables(notes, tables, complaints).await;
}

fn firings_of(fired: &[RawRecord]) -> Firings {
    let mut firings = Firings::new();
    for record in fired {
        let request = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
        let data = record.json()["jobData"].clone();
        firings.entry(request.into_owned()).or_default().push((record.timestamp_ms, data));
    }
    firings
}

fn check_job(
    evidence: &Evidence,
    job: &Operated,
    firings: &[(i64, Value)],
    complaints: &mut Complaints,
) {
    let Operated { request, due_ms, known, asked_ms, answered_ms } = job;
    let after_answer = |at_ms: i64| at_ms > *answered_ms && !evidence.may_be_late(at_ms);
    let fired = !firings.is_empty();
    match known {
        Known::Cancelled => {
            let is_wrong = |at_ms: i64| match at_ms > *answered_ms {
                true => !evidence.may_be_late(at_ms),
                // It was sent, and its instance could not write that down.
                false => !evidence.is_explained(at_ms, *answered_ms),
            };
            let wrong: Vec<_> = firings.iter().filter(|(at_ms, _)| is_wrong(*at_ms)).collect();
            complaints.none(&format!("firings of {request}, which was cancelled"), &wrong);
        }
        Known::MovedTo(moved_ms) => {
            complaints.expect(fired, || format!("{request} was moved and never fired"));
            let early = |at_ms: i64| after_answer(at_ms) && at_ms < *moved_ms;
            let wrong: Vec<_> = firings.iter().filter(|(at_ms, _)| early(*at_ms)).collect();
            complaints.none(&format!("firings of {request} before {moved_ms}"), &wrong);
        }
        Known::Edited => {
            complaints.expect(fired, || format!("{request} was edited and never fired"));
            let old = |at_ms: i64, data: &Value| after_answer(at_ms) && data["round"] != 1;
            let wrong: Vec<_> = firings.iter().filter(|(at_ms, data)| old(*at_ms, data)).collect();
            complaints.none(&format!("firings of {request} with its data of before"), &wrong);
        }
        Known::Fires => complaints.expect(fired, || format!("{request} never fired")),
        Known::Ran => {}
    }
    // Only an operation makes a job fire before its first time.
    let early = |at_ms: i64| at_ms < *due_ms && at_ms < *asked_ms;
    let wrong: Vec<_> = firings.iter().filter(|(at_ms, _)| early(*at_ms)).collect();
    complaints.none(&format!("firings of {request} before anybody asked"), &wrong);
}

fn check_bulk(bulk: &BulkEnd, firings: &Firings, complaints: &mut Complaints) {
    let BulkEnd { requests, shown } = bulk;
    let id = &shown["id"];
    let count = |name: &str| shown[name].as_u64().unwrap_or_default();
    let matched = requests.len() as u64;
    complaints.equal(&format!("bulk action {id} matched"), count("matched"), matched);
    complaints.equal(&format!("bulk action {id} did"), count("done"), matched);
    complaints.equal(&format!("bulk action {id} failed"), count("failed"), 0);
    complaints.equal(&format!("bulk action {id} skipped"), count("skipped"), 0);
    let fired: Vec<_> = requests.iter().filter(|request| firings.contains_key(*request)).collect();
    complaints.none(&format!("jobs of bulk action {id} fired"), &fired);
}

/// Each job has one verdict that ends it, the one that its operator knows.
fn check_verdicts(notes: &Notes, published: &Published, complaints: &mut Complaints) {
    let of_bulks = notes.bulks.iter().flat_map(|bulk| &bulk.requests);
    let of_bulks = of_bulks.map(|request| (request, Known::Cancelled));
    let of_jobs = notes.jobs.iter().map(|job| (&job.request, job.known));
    let ends = published.ends();
    let wrong: Vec<_> = of_jobs
        .chain(of_bulks)
        .map(|(request, known)| {
            (request, known, ends.get(request.as_str()).map_or(&[][..], Vec::as_slice))
        })
        .filter(|(_, known, ends)| match (*ends, known) {
            (["cancelled"], Known::Cancelled | Known::Ran) => false,
            (["succeeded"], known) => *known == Known::Cancelled,
            _ => true,
        })
        .collect();
    complaints.none("jobs that were operated on have other ends", &wrong);
}

/// Each cancellation is remembered, and in the audit once.
async fn check_tables(notes: &Notes, tables: &Tables, complaints: &mut Complaints) {
    let known = |known: Known| notes.jobs.iter().filter(|job| job.known == known).count() as i64;
    let in_bulk = notes.bulks.iter().map(|bulk| bulk.requests.len() as i64).sum::<i64>();
    let (fewest, unsure) = (known(Known::Cancelled), known(Known::Ran));
    let remembered = "select count(*) from scheduler_job where priority = 3";
    let remembered = tables.number(remembered).await - in_bulk;
    complaints.expect((fewest..=fewest + unsure).contains(&remembered), || {
        format!("{remembered} jobs were cancelled one by one, not {fewest} (at most {unsure} more)")
    });
    let twice = "select count(*) - count(distinct subject) from scheduler_audit where action = 'job.cancel'";
    complaints.equal("cancellations that are in the audit twice", tables.number(twice).await, 0);
}
