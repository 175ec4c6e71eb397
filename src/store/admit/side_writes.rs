//! The writes of a batch other than keys and jobs: updates of the rows that it came from, dead letters,
//! commands to the owners of other shards, and verdicts. They are the same on every database.

use infinite_scheduler_entity::dead_letter;
use serde_json::json;

use super::batch::{Batch, BatchSource, Decision, Entry, Taken, Told};
use super::plan::{Plan, Totals};
use crate::model::audit::AuditEntry;
use crate::model::ids::{JobId, ShardId};
use crate::model::letter::{DeadLetter, Refusal, Source};
use crate::model::verdict::{Event, Subject, Verdict, about_job, pack};
use crate::store::commands::{self, LOOK};
use crate::store::letters::{self, DEAD, LONGEST_MESSAGE, PARKED, REPLAYED, truncated};
use crate::store::steps::{Step, Value};
use crate::store::{OrderingKey, audit, bulk, outbox};

impl Plan {
    /// The first statements: update the rows that the batch came from, which must be as they were
    /// read. They are locked from then on.
    pub(super) fn source_updates(&self, batch: &Batch) -> Vec<Step> {
        match &batch.source {
            BatchSource::Records(_) | BatchSource::Call { .. } => Vec::new(),
            BatchSource::Replay { letter, changed_ms, told } => {
                let job = match self.decisions.first() {
                    Some(Decision::Accepted) => self.candidates(batch).next().map(|one| one.job.id),
                    Some(Decision::Duplicate { job, .. }) => Some(*job),
                    Some(Decision::Met { job, .. }) => Some(job.id),
                    Some(Decision::Operated { answer, .. }) => answer.job_id,
                    Some(Decision::Asked(asked)) => Some(asked.request.job),
                    Some(Decision::Dead(_) | Decision::Waits) | None => None,
                };
                let take = format!(
                    "update scheduler_dead_letter set state = {REPLAYED}, changed_ms = ?, job = ?, \
                     bulk = ? where id = ? and state = {DEAD} and changed_ms = ?"
                );
                let values = vec![
                    batch.now_ms.into(),
                    job.map(JobId::uuid).into(),
                    told.bulk().into(),
                    (*letter).into(),
                    (*changed_ms).into(),
                ];
                let mut steps = vec![Step::one(take, values)];
                if let Told::Audit(entry) = told {
                    let details = job.map(|job| json!({ "jobId": job })).unwrap_or_default();
                    steps.push(audit::step(&AuditEntry { details, ..(**entry).clone() }));
                }
                steps
            }
            BatchSource::Parked { rows, .. } => {
                let all = batch.entries.iter().zip(&self.decisions).zip(rows);
                all.map(|((entry, decision), row)| take_parked(batch, entry, decision, row))
                    .collect()
            }
        }
    }

    /// After the shards are locked: update the totals of a partition whose offset does not change.
    pub(super) fn total_updates(&self, batch: &Batch) -> Vec<Step> {
        let BatchSource::Parked { ledger, .. } = batch.source else { return Vec::new() };
        let totals = self.totals(batch);
        let update = "update scheduler_ingest_offset set jobs = jobs + ?, duplicates = duplicates + ?, \
                      operations = operations + ?, dead_letters = dead_letters + ?, parked = parked + ? where id = ?";
        let Totals { jobs, duplicates, operations, dead, parked, .. } = totals;
        let added = [jobs, duplicates, operations, dead, parked];
        let mut values: Vec<Value> = added.map(Value::from).into();
        values.push(ledger.0.into());
        vec![Step::one(update, values)]
    }

    /// The statements after the inserts of keys and jobs.
    pub(super) fn side_writes(&self, batch: &Batch) -> Vec<Step> {
        let mut steps = self.letters(batch);
        for (shard, jobs) in self.looks(batch) {
            let insert = "insert into scheduler_command (shard, kind, args, state, created_ms) \
                          values (?, ?, ?, 0, ?)";
            let ids = commands::encode_ids(&jobs);
            let values = vec![shard.0.into(), LOOK.into(), ids.into(), batch.now_ms.into()];
            steps.push(Step::any(insert, values));
        }
        // A caller asks the owner itself, and waits for the answer.
        if !matches!(batch.source, BatchSource::Call { .. }) {
            let asked = self.decisions.iter().filter_map(|decision| match decision {
                Decision::Asked(asked) => Some(asked),
                _ => None,
            });
            steps.extend(
                asked.map(|asked| commands::send(asked.shard, &asked.request, batch.now_ms)),
            );
        }
        let verdicts = self.verdicts(batch).into_iter();
        steps.extend(verdicts.map(|(key, packed)| outbox::insert_verdicts(key, packed)));
        // Its row is the same for many replays: the lock on it is taken last.
        if let BatchSource::Replay { told: Told::Bulk(id), .. } = batch.source {
            steps.push(bulk::count(id, 1));
        }
        steps
    }

    /// Inserts the dead letters of new records, and outbox rows for new dead letters.
    fn letters(&self, batch: &Batch) -> Vec<Step> {
        let Some(ledger) = batch.source.ledger() else { return Vec::new() };
        let key = OrderingKey::Partition(ledger);
        let row = |letter: &DeadLetter| dead_letter::Model {
            ledger: Some(ledger.0),
            ..letters::encode(letter)
        };
        let mut steps = Vec::new();
        for (place, (entry, decision)) in batch.entries.iter().zip(&self.decisions).enumerate() {
            let taken = match &batch.source {
                BatchSource::Parked { rows, .. } => rows.get(place),
                BatchSource::Records(_) | BatchSource::Replay { .. } | BatchSource::Call { .. } => {
                    None
                }
            };
            match (entry, decision, taken) {
                (_, Decision::Dead(_), Some(taken)) => {
                    steps.push(outbox::insert_letter(key, taken.id));
                }
                (Entry::Wait(wait), Decision::Waits, None) => {
                    let due_ms = Some(wait.due_ms);
                    let row = dead_letter::Model { state: PARKED, due_ms, ..row(&wait.letter) };
                    steps.push(letters::park(row));
                }
                (Entry::Letter(letter), Decision::Dead(_), None) => {
                    steps.push(letters::insert(row(letter), key, None));
                }
                (Entry::Job(candidate), Decision::Dead(refusal), None) => {
                    let letter = candidate.letter(refusal.clone(), batch.now_ms);
                    steps.extend(letter.map(|letter| letters::insert(row(&letter), key, None)));
                }
                (Entry::Operation(operation), Decision::Dead(refusal), None) => {
                    let letter = operation.letter(refusal.clone(), batch.now_ms);
                    steps.extend(letter.map(|letter| letters::insert(row(&letter), key, None)));
                }
                // A parked row is changed by `source_updates`; jobs and duplicates have no dead letter.
                (
                    Entry::Job(_) | Entry::Operation(_) | Entry::Letter(_) | Entry::Wait(_),
                    Decision::Waits,
                    _,
                )
                | (
                    _,
                    Decision::Accepted
                    | Decision::Duplicate { .. }
                    | Decision::Met { .. }
                    | Decision::Operated { .. }
                    | Decision::Asked(_),
                    _,
                )
                | (Entry::Wait(_), Decision::Dead(_), None) => {}
            }
        }
        steps
    }

    /// The jobs that go into shards of other instances, by shard.
    fn looks(&self, batch: &Batch) -> Vec<(ShardId, Vec<JobId>)> {
        let mut looks: Vec<(ShardId, Vec<JobId>)> = Vec::new();
        for candidate in self.candidates(batch).filter(|candidate| candidate.foreign) {
            let (shard, id) = (candidate.job.shard, candidate.job.id);
            match looks.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, ids)) => ids.push(id),
                None => looks.push((shard, vec![id])),
            }
        }
        looks
    }

    /// The events for producers, by ordering key. Events about a job have the key of its shard, so
    /// that they are published in order.
    pub(super) fn verdicts(&self, batch: &Batch) -> Vec<(OrderingKey, String)> {
        if !batch.verdicts {
            return Vec::new();
        }
        let mut by_key: Vec<(OrderingKey, Vec<Event>)> = Vec::new();
        for (entry, decision) in batch.entries.iter().zip(&self.decisions) {
            let Some((key, told)) = verdict(batch, entry, decision) else { continue };
            match by_key.iter_mut().find(|(known, _)| *known == key) {
                Some((_, events)) => events.extend(told),
                None => by_key.push((key, told)),
            }
        }
        by_key.into_iter().map(|(key, events)| (key, pack(&events))).collect()
    }
}

fn take_parked(batch: &Batch, entry: &Entry, decision: &Decision, row: &Taken) -> Step {
    let mine = format!("where id = ? and state = {PARKED} and attempts = ?");
    let attempts = |n: u32| Value::from(i64::from(n));
    let mut values = Vec::new();
    let sql = match decision {
        Decision::Accepted
        | Decision::Duplicate { .. }
        | Decision::Met { .. }
        | Decision::Operated { .. }
        | Decision::Asked(_) => {
            format!("delete from scheduler_dead_letter {mine}")
        }
        Decision::Waits => {
            // Only an `Entry::Wait` can be parked.
            let due_ms = match entry {
                Entry::Wait(wait) => wait.due_ms,
                Entry::Job(_) | Entry::Operation(_) | Entry::Letter(_) => batch.now_ms,
            };
            values = vec![attempts(row.attempts.saturating_add(1)), due_ms.into()];
            format!("update scheduler_dead_letter set attempts = ?, due_ms = ? {mine}")
        }
        Decision::Dead(refusal) => {
            let Refusal { kind, message, .. } = refusal;
            values = vec![
                kind.as_str().into(),
                truncated(message, LONGEST_MESSAGE).into(),
                attempts(row.attempts.saturating_add(1)),
                batch.now_ms.into(),
                batch.now_ms.into(),
            ];
            format!(
                "update scheduler_dead_letter set state = {DEAD}, kind = ?, message = ?, attempts = ?, \
                 created_ms = ?, changed_ms = ?, due_ms = null {mine}"
            )
        }
    };
    values.extend([row.id.into(), attempts(row.attempts)]);
    Step::one(sql, values)
}

fn verdict(batch: &Batch, entry: &Entry, decision: &Decision) -> Option<(OrderingKey, Vec<Event>)> {
    let of_records = batch.source.ledger().map(OrderingKey::Partition);
    let candidate = match entry {
        Entry::Job(candidate) => Some(&**candidate),
        Entry::Operation(_) | Entry::Letter(_) | Entry::Wait(_) => None,
    };
    let of_shard = candidate.map(|candidate| OrderingKey::Shard(candidate.job.shard));
    let subject = subject(entry);
    let tell = |verdict: Verdict<'_>, subject: &Subject<'_>, about: &str| {
        verdict.event(subject, about, batch.now_ms)
    };
    match decision {
        Decision::Accepted => {
            let candidate = candidate?;
            let subject = Subject { job_id: Some(candidate.job.id), ..subject };
            let accepted = tell(Verdict::Accepted, &subject, &about_job(&candidate.job));
            Some((of_shard?, vec![accepted]))
        }
        Decision::Met { job, cancelled, .. } => {
            let subject = Subject { job_id: Some(job.id), ..subject };
            let about = about_job(job);
            let accepted = tell(Verdict::Accepted, &subject, &about);
            let ended = cancelled.then(|| {
                tell(Verdict::Cancelled, &Subject { source: None, ..subject.clone() }, &about)
            });
            Some((of_shard?, [accepted].into_iter().chain(ended).collect()))
        }
        // What is told of the job comes in order with everything else that is.
        Decision::Operated { shard, events, .. } if events.len() > 1 => {
            Some((OrderingKey::Shard(*shard), events.clone()))
        }
        Decision::Operated { shard, events, .. } => {
            Some((of_records.unwrap_or(OrderingKey::Shard(*shard)), events.clone()))
        }
        Decision::Asked(_) => None,
        Decision::Duplicate { of, job, cancelled } => {
            let mine = candidate.map(|candidate| &candidate.job.request_id);
            if matches!(batch.source, BatchSource::Call { again: true }) && mine == Some(of) {
                return None;
            }
            let subject = Subject { job_id: Some(*job), ..subject };
            let about = about_request(batch, &subject);
            let duplicate = Verdict::Duplicate { of, cancelled: *cancelled };
            Some((of_records.or(of_shard)?, vec![tell(duplicate, &subject, &about)]))
        }
        Decision::Dead(Refusal { kind, message, .. }) => {
            let about = about_request(batch, &subject);
            let rejected = Verdict::Rejected { kind: *kind, message };
            Some((of_records.or(of_shard)?, vec![tell(rejected, &subject, &about)]))
        }
        Decision::Waits => None,
    }
}

fn subject(entry: &Entry) -> Subject<'_> {
    match entry {
        Entry::Job(candidate) => Subject {
            request_id: Some(candidate.job.request_id.as_str().into()),
            app: Some(&candidate.app.name),
            job_id: None,
            source: candidate.record.as_ref().map(|record| Source::of(record)),
        },
        Entry::Operation(operation) => Subject {
            request_id: Some(operation.change.message.request_id.as_str().into()),
            app: Some(&operation.app.name),
            job_id: None,
            source: operation.change.message.source.clone(),
        },
        Entry::Letter(letter) => of_letter(letter),
        Entry::Wait(wait) => of_letter(&wait.letter),
    }
}

fn of_letter(letter: &DeadLetter) -> Subject<'_> {
    Subject {
        request_id: letter.request_id.as_deref().map(Into::into),
        app: letter.app.as_deref(),
        job_id: None,
        source: letter.source.clone(),
    }
}

/// Identifies the request in the id of an event: a record by ledger and offset, a call by a random id,
/// since it has no other identity.
fn about_request(batch: &Batch, subject: &Subject<'_>) -> String {
    match (batch.source.ledger(), &subject.source) {
        (Some(ledger), Some(source)) => {
            // The timestamp, because a recreated topic has the same offsets again.
            let Source { offset, timestamp_ms, .. } = source;
            format!("{ledger}.{offset}.{}", timestamp_ms.unwrap_or(-1))
        }
        _ => uuid::Uuid::new_v4().to_string(),
    }
}
