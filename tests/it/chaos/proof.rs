//! The proof by counting: what topics and tables contain at the end, compared with each other.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;

use super::PARTITIONS;
use super::flow::{Kind, Produced};
use super::operated;
use super::operators::Notes;
use super::tables::{LIVE_JOBS, Tables, WAITING_COMMANDS};
use super::troubles::Trouble;
use super::verdicts::Published;
use crate::support::kafka::RawRecord;

/// How long after a fault its last consequences may appear: leases, sessions, and waits that
/// have doubled.
const AFTERMATH_MS: i64 = 30_000;

/// The place of a record.
pub(super) type Place = (i32, i64);

/// The evidence in addition to the tables.
#[derive(Debug)]
pub(super) struct Evidence {
    /// What the ingest topic really holds: a producer without an answer does not know.
    pub(super) topic: Vec<RawRecord>,
    pub(super) fired: Vec<RawRecord>,
    pub(super) dlq: Vec<RawRecord>,
    pub(super) events: Vec<RawRecord>,
    /// Jobs that operators asked for.
    pub(super) operated_fired: Vec<RawRecord>,
    pub(super) operated: Notes,
    /// Letters that were published before are lost with the topic.
    pub(super) dlq_made_ms: i64,
    pub(super) produced: Produced,
    pub(super) troubles: Vec<Trouble>,
}

/// What the records ask for.
#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) poison: BTreeMap<Place, RawRecord>,
    /// When each request is to fire. One name always has one moment.
    due_ms: BTreeMap<String, i64>,
    /// The requests of each idempotency key, or of none.
    pub(super) groups: BTreeMap<String, BTreeSet<String>>,
    /// Requests without a key that the broker has twice: the second is a duplicate only
    /// while the first lives.
    pub(super) ambiguous: BTreeMap<String, usize>,
    /// Jobs that are dead letters because four instances died while they ran, which happens when
    /// many are killed: their records, by request.
    pub(super) interrupted: BTreeMap<String, Place>,
    /// Requests by partition.
    requests: BTreeMap<i32, i64>,
}

/// One record on the topic of fired jobs.
#[derive(Clone, Debug)]
struct Firing {
    fence: u64,
    /// When its instance handed it to its Kafka client.
    at_ms: i64,
}

/// Everything that is wrong.
#[derive(Debug, Default)]
pub(super) struct Complaints(Vec<String>);

impl Complaints {
    pub(super) fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }

    pub(super) fn equal<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        is: T,
        should_be: T,
    ) {
        self.expect(is == should_be, || format!("{what}: {is:?}, not {should_be:?}"));
    }

    /// Names a few of what should not be there at all.
    pub(super) fn none<T: std::fmt::Debug>(&mut self, what: &str, bad: &[T]) {
        let some = &bad[..bad.len().min(5)];
        self.expect(bad.is_empty(), || format!("{} {what}: {some:?}", bad.len()));
    }
}

impl Evidence {
    /// What is wrong, in sentences.
    pub(super) async fn judge(&self, tables: &Tables) -> Vec<String> {
        let mut complaints = Complaints::default();
        let mut expected = self.expected();
        expected.interrupted = tables.interrupted(&mut complaints).await;
        self.judge_topic(&mut complaints);
        self.judge_ledger(&expected, tables, &mut complaints).await;
        self.judge_letters(&expected, tables, &mut complaints).await;
        self.judge_firings(&expected, &mut complaints);
        let published = Published::of(&self.events);
        published.check_records(&expected, &self.topic, &mut complaints);
        published.check_jobs(&expected, &mut complaints);
        operated::check(self, tables, &mut complaints).await;
        complaints.0
    }

    /// One line for people.
    pub(super) fn summary(&self) -> String {
        let expected = self.expected();
        let repeats = self.fired.len().saturating_sub(expected.groups.len());
        format!(
            "{} records ({} unanswered), {} jobs, {} poison, {} troubles; {repeats} fired again; \
             {} verdicts, {} of them repeated; {} operations and {} bulk actions, {} requests repeated",
            self.topic.len(),
            self.produced.unanswered,
            expected.groups.len(),
            expected.poison.len(),
            self.troubles.len(),
            self.events.len(),
            self.events.len() - Published::of(&self.events).len(),
            self.operated.jobs.len(),
            self.operated.bulks.len(),
            self.operated.repeated,
        )
    }

    fn expected(&self) -> Expected {
        let mut expected = Expected::default();
        for record in &self.topic {
            let kind = Kind::of(record.value.as_deref().unwrap_or_default());
            let Kind::Request { id, group, has_key, due_ms } = kind else {
                expected.poison.insert((record.partition, record.offset), record.clone());
                continue;
            };
            *expected.requests.entry(record.partition).or_default() += 1;
            let is_new = expected.groups.entry(group).or_default().insert(id.clone());
            if !is_new && !has_key {
                *expected.ambiguous.entry(id.clone()).or_default() += 1;
            }
            expected.due_ms.insert(id, due_ms);
        }
        expected
    }

    /// What was acknowledged is there; nothing is missing in between.
    fn judge_topic(&self, complaints: &mut Complaints) {
        let places: BTreeMap<Place, &[u8]> = self
            .topic
            .iter()
            .map(|r| ((r.partition, r.offset), r.value.as_deref().unwrap_or_default()))
            .collect();
        let lost = self.produced.acknowledged.iter().filter(|record| {
            places.get(&(record.partition, record.offset)) != Some(&record.value.as_bytes())
        });
        complaints.none("acknowledged records are not on the topic", &lost.collect::<Vec<_>>());
        for partition in 0..PARTITIONS {
            let offsets = self.topic.iter().filter(|r| r.partition == partition).map(|r| r.offset);
            let holes = (0..).zip(offsets).find(|(expected, offset)| expected != offset);
            complaints.expect(holes.is_none(), || format!("partition {partition}: {holes:?}"));
        }
    }

    /// Records = jobs + duplicates + dead letters, in each partition and in all.
    async fn judge_ledger(
        &self,
        expected: &Expected,
        tables: &Tables,
        complaints: &mut Complaints,
    ) {
        let rows = tables.ledger().await;
        complaints.equal("rows of the ledger", rows.len(), PARTITIONS as usize);
        let mut jobs = 0;
        for (partition, row) in &rows {
            let what = |what: &str| format!("partition {partition}: {what}");
            let records = self.topic.iter().filter(|r| r.partition == *partition).count() as i64;
            let poison = expected.poison.range((*partition, 0)..(*partition + 1, 0)).count() as i64;
            let requests = expected.requests.get(partition).copied().unwrap_or_default();
            complaints.equal(&what("next offset"), row.next_offset, records);
            complaints.equal(&what("dead letters"), row.dead_letters, poison);
            complaints.equal(&what("jobs and duplicates"), row.jobs + row.duplicates, requests);
            complaints.equal(&what("operations"), row.operations, 0);
            complaints.equal(&what("records"), row.records, records);
            complaints.equal(&what("parked"), row.parked, 0);
            jobs += row.jobs;
        }
        // Which of two partitions has the job and which the duplicate is a matter of chance.
        let fewest = expected.groups.len() as i64;
        let most = fewest + expected.ambiguous.values().sum::<usize>() as i64;
        complaints.expect((fewest..=most).contains(&jobs), || {
            format!("{jobs} jobs of {fewest} (at most {most}) requests")
        });
        let outbox = "select count(*) from scheduler_outbox";
        for (what, count) in
            [("jobs", LIVE_JOBS), ("rows of the outbox", outbox), ("commands", WAITING_COMMANDS)]
        {
            complaints.equal(&format!("{what} that are left"), tables.number(count).await, 0);
        }
    }

    /// Each poison record is one row, and on the topic since that was recreated.
    async fn judge_letters(
        &self,
        expected: &Expected,
        tables: &Tables,
        complaints: &mut Complaints,
    ) {
        let rows = tables.letters().await;
        let of_records: BTreeSet<Place> = rows.iter().filter_map(|(place, _)| *place).collect();
        let others: Vec<_> = rows.iter().filter(|(place, _)| place.is_none()).collect();
        complaints.none("dead letters are not of a record", &others);
        let interrupted: BTreeSet<&Place> = expected.interrupted.values().collect();
        let letters = expected.poison.len() + interrupted.len();
        complaints.equal("rows of dead letters", rows.len(), letters);
        let missing: Vec<_> =
            expected.poison.keys().filter(|place| !of_records.contains(place)).collect();
        complaints.none("poison records have no row", &missing);
        let is_good =
            |place: &&Place| !expected.poison.contains_key(place) && !interrupted.contains(place);
        let healthy: Vec<_> = of_records.iter().filter(is_good).collect();
        complaints.none("good records are dead letters", &healthy);

        let mut published: BTreeSet<Place> = BTreeSet::new();
        for letter in &self.dlq {
            let number = |name: &str| letter.header(name).and_then(|text| text.parse().ok());
            let place = (number("original-partition"), number("original-offset"));
            let (Some(partition), Some(offset)) = place else {
                complaints.0.push(format!("a letter of nowhere on the topic: {letter:?}"));
                continue;
            };
            let place = (partition as i32, offset);
            if interrupted.contains(&place) {
                continue;
            }
            let original = expected.poison.get(&place).map(|record| &record.value);
            complaints.expect(original == Some(&letter.value), || {
                format!("the letter of {place:?} on the topic is not its record: {letter:?}")
            });
            published.insert(place);
        }
        let since = expected.poison.iter().filter(|(_, r)| r.timestamp_ms > self.dlq_made_ms);
        let mut unpublished: Vec<_> = since.map(|(place, _)| place).collect();
        complaints.expect(!unpublished.is_empty(), || "no poison in the end".to_owned());
        unpublished.retain(|place| !published.contains(place));
        complaints.none("letters are not on the DLQ topic", &unpublished);
    }

    /// Every job fired, none early, and again only for a reason.
    fn judge_firings(&self, expected: &Expected, complaints: &mut Complaints) {
        let mut firings: BTreeMap<String, Vec<Firing>> = BTreeMap::new();
        for record in &self.fired {
            let id =
                String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
            let Some(due_ms) = expected.due_ms.get(&id) else {
                complaints.0.push(format!("nobody asked for {id}"));
                continue;
            };
            let body = record.json();
            let time_ms = |field: &str| {
                let text = body[field].as_str().expect("a time");
                DateTime::parse_from_rfc3339(text).expect("RFC 3339").timestamp_millis()
            };
            let at_ms = record.timestamp_ms;
            complaints.equal(&format!("{id}'s time"), time_ms("scheduledTime"), *due_ms);
            let early = at_ms < *due_ms || time_ms("firedTime") < *due_ms;
            complaints.expect(!early, || format!("{id} was due at {due_ms}: {body}"));
            let fence = record.header("fence").and_then(|f| f.parse().ok()).expect("a fence");
            firings.entry(id).or_default().push(Firing { fence, at_ms });
        }
        for (group, ids) in &expected.groups {
            let fired: Vec<_> = ids.iter().filter(|id| firings.contains_key(*id)).collect();
            let may_not = ids.iter().any(|id| expected.interrupted.contains_key(id));
            let is_right = fired.len() == 1 || fired.is_empty() && may_not;
            complaints.expect(is_right, || format!("of {group}, {ids:?}, fired: {fired:?}"));
        }
        self.judge_repeats(expected, firings, complaints);
    }

    fn judge_repeats(
        &self,
        expected: &Expected,
        mut firings: BTreeMap<String, Vec<Firing>>,
        complaints: &mut Complaints,
    ) {
        // A second request of that name may have been a job of its own.
        firings.retain(|id, _| !expected.ambiguous.contains_key(id));
        let mut repeats = 0;
        for (id, of_job) in &mut firings {
            of_job.sort_by_key(|firing| (firing.at_ms, firing.fence));
            for pair in of_job.windows(2) {
                let [first, second] = pair else { continue };
                repeats += 1;
                complaints.expect(self.is_explained(first.at_ms, second.at_ms), || {
                    format!("{id} fired again for no reason: {pair:?}")
                });
                let grows = first.fence < second.fence
                    || first.fence > second.fence && self.may_be_late(second.at_ms);
                complaints.expect(grows, || format!("{id}'s fence does not grow: {pair:?}"));
            }
        }
        let most: usize = self.troubles.iter().map(|trouble| trouble.again).sum();
        complaints.expect(repeats <= most, || {
            format!("{repeats} fired again, more than the {most} that may have been in flight")
        });
    }

    /// Whether something happened between the two moments, or not long before the first, because of
    /// which what was sent then may be unknown to the database.
    pub(super) fn is_explained(&self, first_ms: i64, second_ms: i64) -> bool {
        self.troubles.iter().any(|trouble| {
            trouble.again > 0
                && trouble.from_ms <= second_ms
                && trouble.until_ms + AFTERMATH_MS >= first_ms
        })
    }

    /// An instance that was suspended between its look at the lease and its send sends late.
    pub(super) fn may_be_late(&self, at_ms: i64) -> bool {
        self.troubles
            .iter()
            .any(|trouble| trouble.suspends && (0..2_000).contains(&(at_ms - trouble.until_ms)))
    }
}
