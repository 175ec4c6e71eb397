//! Asking by HTTP, of an instance that runs.

use infinite_scheduler::model::ids::JobId;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use super::asks::{Ask, Edit, Filter, REASON, Seek, WHO, comparable_audit, comparable_bulk};
use super::{DEADLINE, Surroundings};
use crate::support::process::Instance;
use crate::support::wait_until;

/// The instance and what asks it.
pub(super) struct Http {
    instance: Instance,
    client: Client,
}

/// Who asks for what the audit is not asked about.
const SOMEBODY: &str = "somebody";

/// Status and body.
type Answer = (u16, Value);

impl Http {
    /// Starts an instance with `config`, and tokens for those who ask.
    pub(super) async fn start(config: &str) -> Self {
        let token = |name| format!("{{ name = '{name}', role = 'admin', value = '{name}' }}");
        let tokens = [WHO, SOMEBODY].map(token).join(", ");
        let http = format!("[http]\nlisten = '127.0.0.1:0'\ntokens = [{tokens}]\n");
        let instance = Instance::start(&format!("{config}\n{http}")).await;
        Self { instance, client: Client::new() }
    }

    pub(super) async fn ask(&self, ask: &Ask, surroundings: &Surroundings) -> Value {
        let letter = |word: &str| format!("/api/dead-letters/{}", surroundings.id(word));
        match ask {
            Ask::List(filter) => {
                let list = self.request(Method::GET, "/api/dead-letters").query(&of(filter));
                items(read(list).await)
            }
            Ask::Show(word) => plain(self.get(&letter(word)).await),
            Ask::Edit(edit) => self.edit(&letter(edit.letter), edit, surroundings).await,
            Ask::Replay { letters, dry_run } => {
                let paths = letters.iter().map(|word| format!("{}/replay", letter(word)));
                self.each(Method::POST, paths, *dry_run).await
            }
            Ask::Discard { letters, dry_run } => {
                self.each(Method::DELETE, letters.iter().map(|word| letter(word)), *dry_run).await
            }
            Ask::DiscardAll { kind, dry_run } => self.discard_all(kind, *dry_run).await,
            Ask::Submit(requests) => self.submit(requests).await,
            Ask::Status(request) => match self.get(&format!("/api/requests/sms/{request}")).await {
                (404, problem) => {
                    assert_eq!(kind(&problem), "unknown-request");
                    json!({ "status": "unknown" })
                }
                answer => plain(answer),
            },
            Ask::Bulk { action, with, filter, dry_run } => {
                let filter: serde_json::Map<String, Value> =
                    filter.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
                let mut body = json!({ "action": action, "filter": filter, "dryRun": dry_run });
                if let Some((name, value)) = with {
                    let name = if *name == "shift-ms" { "shiftMs" } else { name };
                    body[name] = serde_json::from_str(value).expect("JSON");
                }
                self.bulk(body).await
            }
            Ask::Apps => items(self.get("/api/apps").await),
            Ask::Positions => plain(self.get("/api/ingest").await),
            Ask::Seek(Seek { to, partitions, dry_run }) => {
                let to = match to.parse::<i64>() {
                    Ok(offset) => json!({ "offset": offset }),
                    Err(_) => json!({ "end": true }),
                };
                self.seek(json!({ "to": to, "partitions": partitions, "dryRun": dry_run })).await
            }
            Ask::SeekForeignTopic => {
                self.seek(json!({ "to": { "end": true }, "topic": "foreign" })).await
            }
            Ask::Jobs(pairs) => {
                let mut answer =
                    items(read(self.request(Method::GET, "/api/jobs").query(pairs)).await);
                // Only HTTP has a query.
                let why = answer["error"].as_str();
                if let Some(why) = why.and_then(|why| why.strip_prefix("query parameter ")) {
                    answer = json!({ "error": why });
                }
                answer
            }
            Ask::ShowJob(request) => match self.get(&job(request)).await {
                // Only HTTP names a job by its id alone.
                (404, _) => json!({ "error": format!(
                    "request {request:?} of sms: there is no such job, or its end is not kept any more"
                ) }),
                answer => plain(answer),
            },
            Ask::CancelJob(request) => {
                let cancel = self.authored(Method::DELETE, &job(request));
                changed(read(cancel.query(&[("reason", REASON)])).await)
            }
            Ask::RunJob(request) => {
                let run = self.authored(Method::POST, &format!("{}/run", job(request)));
                changed(read(run.json(&json!({ "reason": REASON }))).await)
            }
            Ask::Reschedule { job: request, to } => {
                self.patch(request, json!({ "scheduledTime": to })).await
            }
            Ask::EditJob { job: request, priority, max_attempts } => {
                let max_attempts: u32 = max_attempts.parse().expect("a number");
                let fields = json!({ "priority": priority, "maxAttempts": max_attempts });
                self.patch(request, fields).await
            }
            Ask::Operation(id) => plain(self.get(&format!("/api/operations/{id}")).await),
            Ask::Pause { app, refuse } => {
                let pause = json!({ "reason": REASON, "refuseRequests": refuse });
                self.change(&format!("/api/apps/{app}/pause"), pause).await
            }
            Ask::Resume(app) => self.change(&format!("/api/apps/{app}/resume"), because()).await,
            Ask::SetLimits { app, json, .. } => {
                let mut limits: Value = serde_json::from_str(json).expect("JSON");
                limits["reason"] = REASON.into();
                let patch = self.authored(Method::PATCH, &format!("/api/apps/{app}"));
                plain(read(patch.json(&limits)).await)
            }
            Ask::ResetLimits(app) => {
                let reset = self.authored(Method::DELETE, &format!("/api/apps/{app}/overrides"));
                plain(read(reset.query(&[("reason", REASON)])).await)
            }
            Ask::DeleteApp(app) => {
                let delete = self.authored(Method::DELETE, &format!("/api/apps/{app}"));
                plain(read(delete.query(&[("reason", REASON)])).await)
            }
            Ask::Drain(instance) => {
                self.change(&format!("/api/instances/{instance}/drain"), because()).await
            }
            Ask::PauseIngest => self.change("/api/ingest/pause", because()).await,
            Ask::ResumeIngest => self.change("/api/ingest/resume", because()).await,
            Ask::Audit => {
                let audit = self.request(Method::GET, "/api/audit").query(&[("who", WHO)]);
                comparable_audit(items(read(audit).await))
            }
        }
    }

    async fn bulk(&self, body: Value) -> Value {
        let (status, begun) = read(self.authored(Method::POST, "/api/bulk").json(&body)).await;
        if status != 202 {
            return plain((status, begun));
        }
        let path = format!("/api/bulk/{}", begun["id"]);
        wait_until(DEADLINE, "the end of a bulk action", async || {
            let item = self.get(&path).await.1;
            ["finished", "stopped"].contains(&text(&item["state"]))
        })
        .await;
        comparable_bulk(&self.get(&path).await.1)
    }

    async fn edit(&self, path: &str, edit: &Edit, surroundings: &Surroundings) -> Value {
        let path = format!("{path}?dryRun={}", edit.dry_run);
        let body = json!({ "value": edit.correction, "replace": edit.replace });
        let (status, answer) = read(self.request(Method::PATCH, &path).json(&body)).await;
        if status != 200 {
            return json!({ "error": answer["detail"] });
        }
        let what = match (&answer["hasCorrection"], &answer["hadCorrection"]) {
            (Value::Bool(true), Value::Bool(false)) => "has a correction",
            (Value::Bool(true), Value::Bool(true)) => "has another correction",
            (Value::Bool(false), Value::Bool(true)) => "has no correction any more",
            _ => "has no correction, as before",
        };
        json!({ "edited": format!("dead letter {} {what}", surroundings.id(edit.letter)) })
    }

    async fn each(
        &self,
        method: Method,
        paths: impl Iterator<Item = String>,
        dry_run: bool,
    ) -> Value {
        let mut outcomes = Vec::new();
        for path in paths {
            let path = format!("{path}?dryRun={dry_run}");
            let (status, answer) = read(self.request(method.clone(), &path)).await;
            outcomes.push(match (status, answer["result"].as_str()) {
                (200, Some("discarded")) => json!({ "discarded": "" }),
                (200, Some("replayed")) => {
                    json!({ "replayed": format!("as job {}", text(&answer["jobId"])) })
                }
                (404, _) => return json!({ "error": answer["detail"] }),
                _ => match kind(&answer) {
                    "conflict" | "unavailable" | "invalid-request" => {
                        json!({ "error": answer["detail"] })
                    }
                    kind => json!({ "error": format!("{} ({kind})", text(&answer["detail"])) }),
                },
            });
        }
        json!(outcomes)
    }

    async fn discard_all(&self, kind: &str, dry_run: bool) -> Value {
        let list = format!("/api/dead-letters?state=dead&errorKind={kind}&limit=1000");
        let (_, page) = self.get(&list).await;
        let letters = page["items"].as_array().expect("items");
        let mut done = 0;
        for letter in letters {
            let path = format!("/api/dead-letters/{}?dryRun={dry_run}", text(&letter["id"]));
            done += u64::from(read(self.request(Method::DELETE, &path)).await.0 == 200);
        }
        json!({ "matched": letters.len(), "done": done, "failed": letters.len() as u64 - done })
    }

    async fn submit(&self, requests: &[&str]) -> Value {
        let array = format!("[{}]", requests.join(","));
        let request = self.request(Method::POST, "/api/jobs");
        let (status, answers) =
            read(request.header("Content-Type", "application/json").body(array)).await;
        assert_eq!(status, 200, "{answers}");
        let line = |answer: &Value| {
            let job = text(&answer["jobId"]);
            match answer["result"].as_str() {
                Some("accepted") => {
                    format!("accepted, job {job}, request {}", text(&answer["requestId"]))
                }
                Some("duplicate") => {
                    format!("duplicate of request {}, job {job}", text(&answer["of"]))
                }
                _ => format!("refused: {}", text(&answer["detail"])),
            }
        };
        answers.as_array().expect("an array").iter().map(line).collect()
    }

    async fn seek(&self, body: Value) -> Value {
        plain(read(self.request(Method::POST, "/api/ingest/seek").json(&body)).await)
    }

    async fn get(&self, path: &str) -> Answer {
        read(self.request(Method::GET, path)).await
    }

    /// A change that the audit is asked about.
    async fn change(&self, path: &str, body: Value) -> Value {
        plain(read(self.authored(Method::POST, path).json(&body)).await)
    }

    async fn patch(&self, request: &str, mut fields: Value) -> Value {
        fields["reason"] = json!(REASON);
        changed(read(self.authored(Method::PATCH, &job(request)).json(&fields)).await)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.instance.url(path)).bearer_auth(SOMEBODY)
    }

    fn authored(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.instance.url(path)).bearer_auth(WHO)
    }
}

fn of(filter: &Filter) -> Vec<(&'static str, String)> {
    let Filter { app, kind, contains, times } = filter;
    let named = [("app", app), ("errorKind", kind), ("contains", contains)];
    let mut query: Vec<(&str, String)> =
        named.into_iter().filter_map(|(name, value)| Some((name, (*value)?.to_owned()))).collect();
    query.push(("limit", "1000".into()));
    if let Some((from, to)) = times {
        for (name, ms) in [("from", from), ("to", to)] {
            let time = chrono::DateTime::from_timestamp_millis(*ms).expect("a time");
            query.push((name, time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)));
        }
    }
    query
}

async fn read(request: RequestBuilder) -> Answer {
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

fn job(request: &str) -> String {
    format!("/api/jobs/{}", JobId::derive("sms", request))
}

fn because() -> Value {
    json!({ "reason": REASON })
}

/// The answer of an operation on a job, which is a problem's further members if it is a no.
fn changed((status, mut answer): Answer) -> Value {
    match answer["result"].as_str() {
        Some(_) => {
            if status >= 400 {
                let fields = answer.as_object_mut().expect("an object");
                fields.retain(|name, _| !["type", "title", "status", "detail"].contains(&&**name));
            }
            answer
        }
        None => plain((status, answer)),
    }
}

fn plain((status, answer): Answer) -> Value {
    match status {
        200 => answer,
        _ => json!({ "error": answer["detail"] }),
    }
}

fn items(answer: Answer) -> Value {
    let mut answer = plain(answer);
    match answer.get_mut("items") {
        Some(items) => items.take(),
        None => answer,
    }
}

fn kind(problem: &Value) -> &str {
    text(&problem["type"]).rsplit(':').next().unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
