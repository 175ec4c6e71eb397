//! Operations called in a program, by the groups of a scheduler or on a database alone.

use infinite_scheduler::ScheduledTime;
use infinite_scheduler::model::ids::{Offset, Partition};
use infinite_scheduler::operations::{
    Apps, Audit, AuditFilter, BulkAction, BulkRequest, By, DeadLetters, Edit, Ingest, JobFilter,
    JobName, JobPatch, Jobs, LetterAction, LetterFilter, LetterName, LetterOutcome,
    LetterSelection, LetterState, LimitChange, Operations, PageRequest, Seek, SeekTo,
};
use infinite_scheduler::{OperationError, Replayed, ScheduleJobRequest, Scheduler, Submitted};
use serde::Serialize;
use serde_json::{Value, json};

use super::asks::{self, Ask, Filter, REASON, WHO, comparable_audit, comparable_bulk};
use super::{DEADLINE, Surroundings};
use crate::support::wait_until;

/// The operations, of a scheduler or on a database alone.
pub(super) struct Groups<'a> {
    jobs: Jobs<'a>,
    dead_letters: DeadLetters<'a>,
    ingest: Ingest<'a>,
    apps: Apps<'a>,
    audit: Audit<'a>,
    /// The same on behalf of somebody, with a reason.
    authored: Operations,
}

impl<'a> Groups<'a> {
    pub(super) fn of_scheduler(scheduler: &'a Scheduler) -> Self {
        Self {
            jobs: scheduler.jobs(),
            dead_letters: scheduler.dead_letters(),
            ingest: scheduler.ingest(),
            apps: scheduler.apps(),
            audit: scheduler.audit(),
            authored: scheduler.by(By::new(WHO).because(REASON)),
        }
    }

    pub(super) fn of(operations: &'a Operations) -> Self {
        Self {
            jobs: operations.jobs(),
            dead_letters: operations.dead_letters(),
            ingest: operations.ingest(),
            apps: operations.apps(),
            audit: operations.audit(),
            authored: operations.by(By::new(WHO).because(REASON)),
        }
    }

    pub(super) async fn ask(&self, ask: &Ask, surroundings: &Surroundings) -> Value {
        let name = |word: &str| -> LetterName { surroundings.id(word).parse().expect("an id") };
        let names = |words: &[&str]| words.iter().map(|word| name(word)).collect();
        match ask {
            Ask::List(filter) => {
                let page = self.dead_letters.list(&of(filter), &PageRequest::default()).await;
                answer(page.map(|page| page.items))
            }
            Ask::Show(letter) => answer(self.dead_letters.show(&name(letter)).await),
            Ask::Edit(edit) => self.edit(&name(edit.letter), edit).await,
            Ask::Replay { letters, dry_run } => {
                self.each(LetterAction::Replay, names(letters), *dry_run).await
            }
            Ask::Discard { letters, dry_run } => {
                self.each(LetterAction::Discard, names(letters), *dry_run).await
            }
            Ask::DiscardAll { kind, dry_run } => self.discard_all(kind, *dry_run).await,
            Ask::Submit(requests) => self.submit(requests).await,
            Ask::Status(request) => answer(self.jobs.request("sms", *request).await),
            Ask::Jobs(pairs) => {
                let filter = JobFilter::from_pairs(pairs.iter().copied(), None);
                match filter.map_err(|error| error.to_string()) {
                    Ok(filter) => {
                        let page = self.jobs.list(&filter, &PageRequest::default()).await;
                        answer(page.map(|page| page.items))
                    }
                    Err(error) => json!({ "error": error }),
                }
            }
            Ask::Bulk { action, with, filter, dry_run } => {
                let action = match (*action, with) {
                    ("cancel", _) => BulkAction::Cancel,
                    ("run", _) => BulkAction::Run,
                    ("replay", _) => BulkAction::Replay,
                    ("discard", _) => BulkAction::Discard,
                    ("edit", Some((_, set))) => {
                        BulkAction::Edit(Box::new(JobPatch::from_json(set).expect("a patch")))
                    }
                    (_, Some((_, ms))) => BulkAction::Shift(ms.parse().expect("a number")),
                    other => panic!("{other:?}"),
                };
                let filter = JobFilter::from_pairs(filter.iter().copied(), None);
                let request = BulkRequest::new(action, filter.expect("a filter"));
                self.bulk(request, *dry_run).await
            }
            Ask::Apps => answer(self.apps.list().await),
            Ask::ShowJob(job) => answer(self.jobs.show(JobName::of_request("sms", *job)).await),
            Ask::CancelJob(job) => {
                answer(self.authored.jobs().cancel(JobName::of_request("sms", *job)).await)
            }
            Ask::RunJob(job) => {
                answer(self.authored.jobs().run(JobName::of_request("sms", *job)).await)
            }
            Ask::Reschedule { job, to } => {
                let to: ScheduledTime = to.parse().expect("a time");
                let job = JobName::of_request("sms", *job);
                answer(self.authored.jobs().reschedule(job, to).await)
            }
            Ask::EditJob { job, priority, max_attempts } => {
                let patch = format!(r#"{{"priority":"{priority}","maxAttempts":{max_attempts}}}"#);
                let patch = JobPatch::from_json(&patch).expect("a patch");
                answer(self.authored.jobs().edit(JobName::of_request("sms", *job), patch).await)
            }
            Ask::Operation(id) => answer(self.jobs.operation(*id).await),
            Ask::Pause { app, refuse } => answer(self.authored.apps().pause(*app, *refuse).await),
            Ask::Resume(app) => answer(self.authored.apps().resume(*app).await),
            Ask::SetLimits { app, json, .. } => {
                let limits = LimitChange::from_json(json).expect("limits");
                answer(self.authored.apps().change(*app, limits).await)
            }
            Ask::ResetLimits(app) => answer(self.authored.apps().reset(*app).await),
            Ask::DeleteApp(app) => answer(self.authored.apps().delete(*app).await),
            Ask::Drain(instance) => answer(self.authored.instances().drain(*instance).await),
            Ask::PauseIngest => answer(self.authored.ingest().pause().await),
            Ask::ResumeIngest => answer(self.authored.ingest().resume().await),
            Ask::Audit => {
                let filter = AuditFilter { who: Some(WHO.into()), ..AuditFilter::default() };
                let list = self.audit.list(&filter, &PageRequest::default()).await;
                comparable_audit(answer(list.map(|list| list.items)))
            }
            Ask::Positions => answer(self.ingest.positions().await),
            Ask::Seek(asks::Seek { to, partitions, dry_run }) => {
                let to = to.parse().map_or(SeekTo::End, |offset| SeekTo::Offset(Offset(offset)));
                let (partitions, dry_run) =
                    (partitions.iter().copied().map(Partition).collect(), *dry_run);
                answer(self.ingest.seek(Seek { to, topic: None, partitions, dry_run }).await)
            }
            Ask::SeekForeignTopic => {
                let (to, topic) = (SeekTo::End, Some("foreign".into()));
                let seek = Seek { to, topic, partitions: Vec::new(), dry_run: false };
                answer(self.ingest.seek(seek).await)
            }
        }
    }

    async fn bulk(&self, request: BulkRequest, dry_run: bool) -> Value {
        let bulk = self.authored.bulk();
        if dry_run {
            return answer(bulk.preview(&request).await);
        }
        let started = match bulk.start(request).await {
            Ok(started) => started,
            Err(error) => return of_error(&error),
        };
        let id = started.bulk.id;
        if started.waits_for_instance {
            bulk.carry_out(id).await.expect("an answer");
        }
        wait_until(DEADLINE, "the end of a bulk action", async || {
            bulk.show(id).await.expect("an answer").state.is_ended()
        })
        .await;
        comparable_bulk(&answer(bulk.show(id).await))
    }

    async fn edit(&self, letter: &LetterName, edit: &asks::Edit) -> Value {
        let correction = edit.correction.map(|text| text.as_bytes().to_vec());
        let (replace, dry_run) = (edit.replace, edit.dry_run);
        let edited = Edit { correction, force: false, replace, dry_run };
        let edited = match self.dead_letters.edit(letter, edited).await {
            Ok(edited) => edited,
            Err(error) => return of_error(&error),
        };
        let what = match (edited.has_correction, edited.had_correction) {
            (true, false) => "has a correction",
            (true, true) => "has another correction",
            (false, true) => "has no correction any more",
            (false, false) => "has no correction, as before",
        };
        json!({ "edited": format!("dead letter {} {what}", edited.letter) })
    }

    async fn each(&self, action: LetterAction, letters: Vec<LetterName>, dry_run: bool) -> Value {
        let mut outcomes = Vec::new();
        let letters = LetterSelection::Named(letters);
        let carried_out = self
            .dead_letters
            .apply(action, &letters, dry_run, |_, outcome| {
                outcomes.push(match outcome {
                    Ok(LetterOutcome::Discarded) => json!({ "discarded": "" }),
                    Ok(LetterOutcome::Replayed(Replayed::Accepted { job_id })) => {
                        json!({ "replayed": format!("as job {job_id}") })
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(OperationError::Refused(refusal)) => {
                        json!({ "error": format!("{refusal} ({})", refusal.kind) })
                    }
                    Err(error) => of_error(error),
                });
            })
            .await;
        match carried_out {
            Ok(tally) => {
                assert_eq!(tally.done + tally.failed, outcomes.len() as u64);
                json!(outcomes)
            }
            Err(error) => of_error(&error),
        }
    }

    async fn discard_all(&self, kind: &str, dry_run: bool) -> Value {
        let filter = LetterFilter { kind: Some(kind.into()), ..LetterFilter::default() };
        let counted = self.dead_letters.select(filter).await.expect("a count");
        let matched = counted.total();
        let letters = LetterSelection::Counted(counted);
        let done = self.dead_letters.apply(LetterAction::Discard, &letters, dry_run, |_, _| {});
        let tally = done.await.expect("an answer");
        json!({ "matched": matched, "done": tally.done, "failed": tally.failed })
    }

    async fn submit(&self, requests: &[&str]) -> Value {
        let read = |text: &&str| ScheduleJobRequest::from_json(text.as_bytes()).expect("a request");
        let answers = self.jobs.schedule_all(requests.iter().map(read)).await;
        let line = |answer| match answer {
            Ok(Submitted::Accepted { job_id, request_id }) => {
                format!("accepted, job {job_id}, request {request_id}")
            }
            Ok(Submitted::Duplicate { job_id, of, .. }) => {
                format!("duplicate of request {of}, job {job_id}")
            }
            Err(OperationError::Refused(refusal)) => format!("refused: {refusal}"),
            other => panic!("{other:?}"),
        };
        answers.into_iter().map(line).collect()
    }
}

fn of(filter: &Filter) -> LetterFilter {
    LetterFilter {
        states: LetterState::ALL.to_vec(),
        app: filter.app.map(Into::into),
        kind: filter.kind.map(Into::into),
        from_ms: filter.times.map(|times| times.0),
        to_ms: filter.times.map(|times| times.1),
        contains: filter.contains.map(Into::into),
        partition: None,
    }
}

fn answer(answer: Result<impl Serialize, OperationError>) -> Value {
    match answer {
        Ok(answer) => serde_json::to_value(answer).expect("JSON"),
        Err(error) => of_error(&error),
    }
}

fn of_error(error: &OperationError) -> Value {
    json!({ "error": error.to_string() })
}
