//! Who may do what, by which token, and what role read does not see.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use infinite_scheduler::config::{Role, TokenConfig};
use infinite_scheduler::http::{Server, ServerError, ServerOptions};
use reqwest::Method;
use serde_json::json;

use super::{Answer, Served, answer, in_an_hour, job, kind, local};
use crate::support::kafka::{RawRecord, produce};
use crate::support::process::Instance;
use crate::support::services::{Database, temporary_folder};
use crate::support::wait_until;
use crate::support::world::World;

fn options() -> ServerOptions {
    local()
        .token(TokenConfig::new("reader", Role::Read, "r"))
        .token(TokenConfig::new("operator", Role::Operate, "o"))
        .token(TokenConfig::new("admin", Role::Admin, "a"))
}

impl Served {
    async fn by(&self, authorization: &[u8], method: Method, path: &str) -> Answer {
        answer(self.request(method, path).header("Authorization", authorization)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_it_is_for() {
    let database = Database::Sqlite.fresh().await;
    let served = Served::with(&database, options()).await;
    let letter = "/api/dead-letters/00000000-0000-0000-0000-000000000000";
    let replay = format!("{letter}/replay");
    let none = "/api/jobs/00000000-0000-0000-0000-000000000000";
    // What each role is answered: read, operate, admin.
    for (method, path, meant) in [
        (Method::GET, "/api/apps", [200, 200, 200]),
        (Method::HEAD, "/api/metrics", [200, 200, 200]),
        (Method::GET, "/api/schema", [200, 200, 200]),
        (Method::GET, "/api/openapi.json", [200, 200, 200]),
        (Method::GET, letter, [404, 404, 404]),
        (Method::POST, "/api/jobs", [403, 415, 415]),
        (Method::POST, &replay, [403, 404, 404]),
        (Method::PATCH, letter, [403, 415, 415]),
        (Method::DELETE, letter, [403, 404, 404]),
        (Method::POST, "/api/ingest/seek", [403, 403, 415]),
        (Method::GET, "/api/jobs", [200, 200, 200]),
        (Method::GET, none, [404, 404, 404]),
        (Method::DELETE, none, [403, 404, 404]),
        (Method::PATCH, none, [403, 415, 415]),
        (Method::POST, &format!("{none}/run"), [403, 404, 404]),
        (Method::GET, "/api/operations/4711", [404, 404, 404]),
        (Method::POST, "/api/apps/fax/pause", [403, 404, 404]),
        (Method::POST, "/api/apps/fax/resume", [403, 404, 404]),
        (Method::DELETE, "/api/apps/fax", [403, 403, 404]),
        (Method::POST, "/api/ingest/pause", [403, 422, 422]),
        (Method::POST, "/api/ingest/resume", [403, 422, 422]),
        (Method::GET, "/api/instances", [200, 200, 200]),
        (Method::POST, "/api/instances/12/drain", [403, 403, 404]),
        (Method::GET, "/api/audit", [403, 403, 200]),
        (Method::PUT, "/api/jobs", [405, 405, 405]),
        (Method::GET, "/nowhere", [404, 404, 404]),
    ] {
        for (token, meant) in ["Bearer r", "Bearer o", "Bearer a"].into_iter().zip(meant) {
            let (status, answer) = served.by(token.as_bytes(), method.clone(), path).await;
            assert_eq!(status, meant, "{token} {method} {path}: {answer}");
            if status == 403 {
                assert_eq!(kind(&answer), "forbidden", "{answer}");
            }
        }
        let none = served.request(method.clone(), path).send().await.expect("an answer");
        assert_eq!(none.headers()["www-authenticate"], "Bearer", "{path}");
        assert_eq!(none.status(), 401, "{method} {path}");
    }
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(served.get(path).await.0, 200, "{path} wants no token");
    }
    for (value, status) in [
        (&b"bearer a"[..], 200),
        (b"Bearer  a", 200),
        (b"BEARER a", 200),
        (b"Bearer", 401),
        (b"Bearer ", 401),
        (b"Basic YTph", 401),
        (b"a", 401),
        (b"Bearer b", 401),
        (b"Bearer aa", 401),
        (b"Bearer \xc3\xa9", 401),
        (b"Bearer \xff", 401),
    ] {
        let (answered, body) = served.by(value, Method::GET, "/api/apps").await;
        assert_eq!(answered, status, "{}: {body}", String::from_utf8_lossy(value));
    }
    // With tokens it does not matter by which name the server is reached.
    let request = served.request(Method::GET, "/api/apps").header("Host", "jobs.example");
    assert_eq!(answer(request.header("Authorization", "Bearer r")).await.0, 200);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_replaced_without_a_restart() {
    let database = Database::Sqlite.fresh().await;
    let folder = temporary_folder();
    let path = |name: &str| folder.path().join(name);
    // As Kubernetes mounts a secret: `ops` leads to `..data/ops`, and `..data` to a dated folder.
    for (dated, value) in [("one", "first\n"), ("two", "second\r\n")] {
        fs::create_dir(path(dated)).expect("a folder");
        fs::write(path(dated).join("ops"), value).expect("a file");
    }
    symlink("one", path("..data")).expect("a link");
    symlink("..data/ops", path("ops")).expect("a link");
    let options = local()
        .token(TokenConfig::of_file("ops", Role::Operate, path("ops")))
        .token(TokenConfig::new("ops", Role::Operate, "old"));
    let served = Served::with(&database, options).await;
    let status = async |token: &str| {
        served.by(format!("Bearer {token}").as_bytes(), Method::GET, "/api/apps").await.0
    };
    assert_eq!((status("first").await, status("old").await), (200, 200));
    assert_eq!((status("second").await, status("first\\n").await), (401, 401));

    symlink("two", path("next")).expect("a link");
    fs::rename(path("next"), path("..data")).expect("a swap");
    let within = Duration::from_secs(10);
    wait_until(within, "the new value", async || status("second").await == 200).await;
    assert_eq!((status("first").await, status("old").await), (401, 200));

    let degraded = async || {
        let (status, health) = served.get("/health/ready").await;
        assert_eq!(status, 200, "{health}");
        let problems = health["degraded"].as_array().expect("a list").clone();
        let mut of_token = problems.into_iter().filter(|it| it["subject"] == "http token ops");
        of_token.next().map(|problem| problem["message"].as_str().expect("text").to_owned())
    };
    let said = async |what: &str| {
        wait_until(within, what, async || degraded().await.is_some_and(|it| it.contains(what)))
            .await;
        assert_eq!((status("second").await, status("").await), (200, 401), "{what}");
        assert!(degraded().await.is_some_and(|it| !it.contains("second")));
    };
    fs::write(path("two").join("ops"), "").expect("a file");
    said("is empty").await;
    fs::remove_file(path("two").join("ops")).expect("a file");
    said("cannot be read").await;
    fs::create_dir(path("two").join("ops")).expect("a folder");
    said("cannot be read").await;
    fs::remove_dir(path("two").join("ops")).expect("a folder");
    fs::write(path("two").join("ops"), "third").expect("a file");
    wait_until(within, "the third value", async || status("third").await == 200).await;
    assert_eq!((status("second").await, degraded().await), (401, None));
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_there_is_no_server_without_a_token() {
    let everywhere = || ServerOptions::new(([0, 0, 0, 0], 0));
    assert!(matches!(Server::start(everywhere()), Err(ServerError::NoToken(_))));
    let server = Server::start(everywhere().token(TokenConfig::new("a", Role::Admin, "a")));
    server.expect("a server").stop().await;

    let config = "[http]\nlisten = '127.0.0.1:0'\n\
                  tokens = [{ name = 'ops', role = 'admin', file = 'none.token' }]\n";
    let mut instance = Instance::spawn(config);
    assert_eq!(instance.exited(super::DEADLINE).await.code(), Some(2));
    let said = instance.stderr();
    assert!(
        said.contains("http.tokens: token ops: its file") && said.contains("none.token"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn role_read_does_not_see_what_is_masked() {
    let world = World::new(Database::Sqlite, 1).await;
    let masks = ["/phoneNumber".parse().expect("a pointer")];
    let fails = infinite_scheduler::handler_fn(
        |_: infinite_scheduler::JobContext, data: serde_json::Value| async move {
            let number = data["phoneNumber"].as_str().unwrap_or_default();
            Err(infinite_scheduler::JobError::Fail(format!("{number} is not reachable")))
        },
    );
    let builder = world
        .builder_without_apps()
        .register_app(infinite_scheduler::AppConfig::new("sms"), fails)
        .register_app(infinite_scheduler::AppConfig::new("fax"), infinite_scheduler::Discard);
    let served = Served::of(builder, options().mask("sms", masks)).await;
    let hush = "+49-hush";
    let record = |id: &str, app: &str, more: &str| {
        let text = format!(
            r#"{{"requestId":"{id}","appName":"{app}","scheduledTime":0,"jobData":{{"phoneNumber":"{hush}","\u0070honeNumber":"{hush}","n":1}}{more}}}"#
        );
        RawRecord::new(0, text)
    };
    produce(
        &world.topic,
        &[
            record("masked", "sms", ""),
            record("broken", "sms", r#","maxAttempts":0"#),
            record("unknown", "nobody", r#","maxAttempts":0"#),
            record("fax", "fax", r#","maxAttempts":0"#),
            RawRecord::new(0, format!("{hush} is not JSON")),
        ],
    )
    .await;
    let list = async |token: &str| {
        served.by(token.as_bytes(), Method::GET, "/api/dead-letters?limit=100").await.1
    };
    wait_until(super::DEADLINE, "five letters", async || {
        list("Bearer o").await["items"].as_array().is_some_and(|items| items.len() == 5)
    })
    .await;
    let all = list("Bearer o").await;
    assert!(all.to_string().contains(hush), "{all}");
    let seen = list("Bearer r").await;
    assert!(!seen.to_string().contains(hush), "{seen}");
    let mut masked = 0;
    for letter in all["items"].as_array().expect("items") {
        let path = format!("/api/dead-letters/{}", letter["id"].as_str().expect("an id"));
        let (status, whole) = served.by(b"Bearer o", Method::GET, &path).await;
        assert_eq!(status, 200);
        assert!(whole.to_string().contains(hush), "{whole}");
        let (status, seen) = served.by(b"Bearer r", Method::GET, &path).await;
        assert_eq!((status, &seen["id"]), (200, &whole["id"]));
        match letter["appName"].as_str() {
            Some("fax") => assert_eq!(seen, whole, "no mask"),
            Some("sms") => {
                assert!(!seen.to_string().contains(hush), "{seen}");
                assert!(seen["value"].as_str().expect("a value").contains("***"), "{seen}");
                masked += 1;
            }
            _ => {
                assert!(!seen.to_string().contains(hush), "{seen}");
                assert_eq!((&seen["value"], &seen["withheld"]), (&json!(null), &json!(true)));
            }
        }
    }
    assert_eq!(masked, 2);
    masked_jobs(&served, hush).await;
    let (status, seen) = served.by(b"Bearer r", Method::GET, "/api/requests/sms/masked").await;
    assert_eq!((status, &seen["status"], &seen["message"]), (200, &json!("dead"), &json!(null)));
    let (_, whole) = served.by(b"Bearer o", Method::GET, "/api/requests/sms/masked").await;
    assert!(whole["message"].as_str().expect("text").contains(hush), "{whole}");
    served.end().await;
}

/// Neither lists nor filters show role read what `sms` masks.
async fn masked_jobs(served: &Served, hush: &str) {
    let mut hidden = job(Some("hidden"), in_an_hour(), "x");
    hidden["jobData"]["phoneNumber"] = json!(hush);
    let mut open = hidden.clone();
    open["appName"] = json!("fax");
    let jobs = served.request(Method::POST, "/api/jobs").json(&json!([hidden, open]));
    let (status, made) = answer(jobs.bearer_auth("o")).await;
    assert_eq!(status, 200, "{made}");
    let one = format!("/api/jobs/{}", made[0]["jobId"].as_str().expect("an id"));
    for path in ["/api/jobs?app=sms", &one] {
        let (status, whole) = served.by(b"Bearer o", Method::GET, path).await;
        assert_eq!(status, 200, "{whole}");
        assert!(whole.to_string().contains(hush), "{whole}");
        let (status, seen) = served.by(b"Bearer r", Method::GET, path).await;
        let shown = seen["items"].get(0).unwrap_or(&seen);
        assert_eq!((status, &shown["jobData"]["phoneNumber"]), (200, &json!("***")), "{seen}");
        assert!(shown["jobData"]["message"] == "x" && shown["withheld"] == true, "{seen}");
        assert!(!seen.to_string().contains(hush), "{seen}");
    }
    let (_, seen) = served.by(b"Bearer r", Method::GET, "/api/jobs?app=fax").await;
    assert!(seen.to_string().contains(hush), "nothing of fax is masked: {seen}");
    for (app, pointer, meant) in [
        ("app=sms&", "/phoneNumber", 403),
        ("app=sms&", "", 403),
        ("app=sms&", "/phoneNumber/x", 403),
        ("", "/phoneNumber", 403),
        ("app=nobody&", "/message", 403),
        ("app=sms&", "/message", 200),
        ("app=fax&", "/phoneNumber", 200),
        ("", "/message", 200),
    ] {
        let path = format!(r#"/api/jobs?{app}data=[{{"pointer":"{pointer}","equals":"x"}}]"#);
        let (status, refused) = served.by(b"Bearer r", Method::GET, &path).await;
        assert_eq!(status, meant, "{path}: {refused}");
        if status == 403 {
            assert_eq!(kind(&refused), "masked", "{refused}");
        } else {
            assert_eq!(served.by(b"Bearer o", Method::GET, &path).await.0, 200, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_the_configuration_hold_for_the_service() {
    let variables = [(
        "INFINITE_SCHEDULER__HTTP__TOKENS",
        r#"[{ name = "ops", role = "operate", value = "hush-7a1f" }]"#,
    )];
    let config = "[http]\nlisten = '127.0.0.1:0'\n[apps.sms]\ndispatch = 'discard'\n";
    let mut instance = Instance::spawn_with(config, &variables);
    instance.ready(super::DEADLINE).await;
    let client = reqwest::Client::new();
    let url = instance.url("/api/jobs");
    let job = job(None, in_an_hour(), "x");
    assert_eq!(answer(client.post(&url).json(&job)).await.0, 401);
    let (status, body) = answer(client.post(&url).json(&job).bearer_auth("hush-7a1f")).await;
    assert_eq!(status, 201, "{body}");
    assert_eq!(instance.terminate(super::DEADLINE).await.code(), Some(0));
    assert!(!instance.stderr().contains("hush-7a1f") && !instance.stdout().contains("hush-7a1f"));
}
