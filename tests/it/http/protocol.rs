//! What holds for every request: methods, paths, types, encodings, sizes and times.

use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Served, answer, builder, job, kind, local};
use crate::support::process::Instance;
use crate::support::services::Database;

fn gzip(bytes: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    for part in bytes {
        gzip.write_all(part.as_ref()).expect("memory");
    }
    gzip.finish().expect("memory")
}

/// What a server answers to these bytes, until it closes the connection.
async fn raw(served: &Served, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(served.server.address()).await.expect("a connection");
    stream.write_all(sent).await.expect("sent");
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(super::DEADLINE, read).await.expect("an end").expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_are_answered_for_what_they_are() {
    let database = Database::Sqlite.fresh().await;
    let served = Served::on(&database).await;
    let paths = ["/health/ready", "/health/live", "/api/apps", "/api/metrics", "/api/schema"];
    for path in paths.into_iter().chain(["/api/jobs", "/api/instances", "/api/audit"]) {
        let get = served.request(Method::GET, path).send().await.expect("an answer");
        let head = served.request(Method::HEAD, path).send().await.expect("an answer");
        assert_eq!(get.status(), head.status(), "{path}");
        for name in ["content-type", "content-length", "cache-control", "x-content-type-options"] {
            assert_eq!(
                get.headers().get(name).is_some(),
                head.headers().get(name).is_some(),
                "{path} {name}"
            );
        }
        assert_eq!(get.headers()["content-type"], head.headers()["content-type"], "{path}");
        assert!(head.bytes().await.expect("a body").is_empty(), "{path}");
    }
    for (path, allow) in [
        ("/api/jobs", "GET, HEAD, POST, OPTIONS"),
        ("/api/apps", "GET, HEAD, OPTIONS"),
        ("/health/live", "GET, HEAD, OPTIONS"),
    ] {
        let options = served.request(Method::OPTIONS, path).send().await.expect("an answer");
        assert_eq!(options.status(), 204, "{path}");
        assert_eq!(options.headers()["allow"], allow, "{path}");
        assert!(options.headers().get("access-control-allow-origin").is_none());
        for method in ["PUT", "TRACE", "FOO"] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let refused = served.request(method.clone(), path).send().await.expect("an answer");
            assert_eq!(refused.headers()["allow"], allow, "{method} {path}");
            let (status, refused) = super::read(refused).await;
            assert_eq!((status, kind(&refused)), (405, "method-not-allowed"), "{method} {path}");
        }
    }
    for (path, hint) in [
        ("/api/jobs/", Some("/api/jobs")),
        ("//api/jobs", Some("/api/jobs")),
        ("/API/jobs", Some("/api/jobs")),
        ("/nowhere", None),
    ] {
        let (status, refused) = served.get(path).await;
        assert_eq!((status, kind(&refused)), (404, "no-such-path"), "{refused}");
        let detail = refused["detail"].as_str().expect("text");
        match hint {
            Some(hint) => assert!(detail.ends_with(&format!("did you mean {hint}?")), "{detail}"),
            None => assert!(!detail.contains("did you mean"), "{detail}"),
        }
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_json_in_utf8_is_read() {
    let database = Database::Sqlite.fresh().await;
    let served = Served::on(&database).await;
    let good = job(None, 0, "x").to_string();
    for (name, fine) in [
        (None, false),
        (Some("text/plain"), false),
        (Some("application/x-www-form-urlencoded"), false),
        (Some("application/x-ndjson"), false),
        (Some("application/json; charset=iso-8859-1"), false),
        (Some("nonsense"), false),
        (Some("application/json"), true),
        (Some("application/json; charset=utf-8"), true),
        (Some("application/json; charset=\"UTF-8\""), true),
        (Some("APPLICATION/JSON"), true),
    ] {
        let mut request = served.request(Method::POST, "/api/jobs").body(good.clone());
        if let Some(name) = name {
            request = request.header("Content-Type", name);
        }
        let (status, body) = answer(request).await;
        match fine {
            true => assert_eq!(status, 201, "{name:?}: {body}"),
            false => {
                assert_eq!((status, kind(&body)), (415, "unsupported-media-type"), "{name:?}");
                assert!(body["detail"].as_str().expect("text").contains("application/json"));
            }
        }
    }
    let post = |body: Vec<u8>, encoding: &'static str| {
        let request = served.request(Method::POST, "/api/jobs").body(body);
        let request = request.header("Content-Type", "application/json");
        answer(request.header("Content-Encoding", encoding))
    };
    assert_eq!(post(gzip([&good]), "gzip").await.0, 201);
    assert_eq!(post(gzip([&good]), "GZIP").await.0, 201);
    assert_eq!(post(good.clone().into_bytes(), "identity").await.0, 201);
    for encoding in ["br", "gzip, gzip", "deflate"] {
        let (status, refused) = post(gzip([&good]), encoding).await;
        assert_eq!((status, kind(&refused)), (415, "unsupported-encoding"), "{refused}");
    }
    let mut cut = gzip([&good]);
    cut.truncate(cut.len() / 2);
    for body in [cut, good.clone().into_bytes()] {
        let (status, refused) = post(body, "gzip").await;
        assert_eq!((status, kind(&refused)), (400, "invalid-body"), "{refused}");
    }
    let latin = [good.as_bytes(), b"\xe9"].concat();
    let (status, refused) = post(latin, "identity").await;
    assert_eq!((status, kind(&refused)), (400, "invalid-encoding"), "{refused}");
    served.still_works("ok").await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_limited_before_and_after_they_are_opened() {
    let mut instance = Instance::start("[apps.sms]\ndispatch = 'discard'").await;
    let client = reqwest::Client::new();
    let post = |body: Vec<u8>, encoding: &'static str| {
        let request = client.post(instance.url("/api/jobs")).body(body);
        let request = request.header("Content-Type", "application/json");
        answer(request.header("Content-Encoding", encoding))
    };
    let sized = |bytes: usize| {
        let empty = job(None, 0, "").to_string().len();
        job(None, 0, &"x".repeat(bytes - empty)).to_string().into_bytes()
    };
    assert_eq!(post(sized(300 << 10), "identity").await.0, 201);
    assert_eq!(post(sized(1 << 20), "identity").await.0, 201);
    assert_eq!(post(gzip([sized(1 << 20)]), "gzip").await.0, 201);
    for body in [sized((1 << 20) + 1), sized(3 << 20)] {
        for encoding in ["identity", "gzip"] {
            let body = if encoding == "gzip" { gzip([&body]) } else { body.clone() };
            let (status, refused) = post(body, encoding).await;
            assert_eq!((status, kind(&refused)), (413, "too-large"), "{encoding}: {refused}");
            assert!(refused["detail"].as_str().expect("text").contains("1 MiB"), "{refused}");
        }
    }
    let before = instance.peak_memory_mb();
    let spaces = vec![b' '; 1 << 20];
    for first in ["{", "["] {
        let bomb = std::iter::once(first.as_bytes()).chain((0..100).map(|_| &spaces[..]));
        let bomb = gzip(bomb);
        assert!(bomb.len() < 1 << 20, "{}", bomb.len());
        let (status, refused) = post(bomb, "gzip").await;
        assert_eq!((status, kind(&refused)), (413, "too-large"), "{refused}");
    }
    let grown = instance.peak_memory_mb() - before;
    assert!(grown < 32, "{grown} MiB more");

    let many = format!("[{}1]", "1,".repeat(100_000)).into_bytes();
    let (status, refused) = post(many, "identity").await;
    assert_eq!((status, kind(&refused)), (413, "too-large"), "{refused}");
    assert!(refused["detail"].as_str().expect("text").contains("100000"), "{refused}");
    let large = [b"[", &sized((1 << 20) + 1)[..], b"]"].concat();
    let (status, answers) = post(large, "identity").await;
    assert_eq!((status, &answers[0]["status"]), (200, &json!(413)));
    assert_eq!(instance.terminate(super::DEADLINE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_reads_is_drained_or_ends_the_connection() {
    let database = Database::Sqlite.fresh().await;
    let served = Served::on(&database).await;
    let head = |length: usize| {
        format!("POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")
    };
    let next = "GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let short = [head(1000).as_bytes(), &[b'x'; 1000], next.as_bytes()].concat();
    let said = raw(&served, &short).await;
    assert_eq!(said.matches("HTTP/1.1 ").count(), 2, "{said}");
    assert!(said.starts_with("HTTP/1.1 404") && said.contains("HTTP/1.1 200"), "{said}");

    let said = raw(&served, &[head(1 << 20).as_bytes(), &[b'x'; 200_000][..]].concat()).await;
    assert!(said.starts_with("HTTP/1.1 404"), "{said}");
    assert!(said.to_lowercase().contains("connection: close"), "{said}");

    // One that never comes.
    let began = Instant::now();
    let said = raw(&served, head(1000).as_bytes()).await;
    assert!(said.to_lowercase().contains("connection: close"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_end_is_given_up() {
    let database = Database::Sqlite.fresh().await;
    let served = Served::on(&database).await;
    let head = "POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n";
    let began = Instant::now();
    let said = raw(&served, head.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(
        said.contains("problem:timeout") && said.to_lowercase().contains("connection: close"),
        "{said}"
    );
    assert!((29..45).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    served.still_works("ok").await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_only_this_machine_is_answered() {
    let database = Database::Sqlite.fresh().await;
    let served = Served::on(&database).await;
    for (name, value, meant) in [
        ("Host", "evil.example", "foreign-host"),
        ("Host", "192.168.0.7:7070", "foreign-host"),
        ("Origin", "http://evil.example", "foreign-origin"),
        ("Origin", "null", "foreign-origin"),
    ] {
        let request = served.request(Method::POST, "/api/jobs").json(&job(None, 0, "x"));
        let (status, refused) = answer(request.header(name, value)).await;
        assert_eq!((status, kind(&refused)), (403, meant), "{name}: {value}: {refused}");
        let health = served.request(Method::GET, "/health/live").header(name, value);
        assert_eq!(answer(health).await.0, 200, "a probe has whatever name");
    }
    let origin = format!("http://{}", served.server.address());
    let request = served.request(Method::POST, "/api/jobs").json(&job(None, 0, "x"));
    assert_eq!(answer(request.header("Origin", origin)).await.0, 201);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_describe_what_is_answered() {
    let database = Database::Sqlite.fresh().await;
    let served = Served::on(&database).await;
    let (status, document) = served.get("/api/openapi.json").await;
    assert_eq!((status, &document["info"]["title"]), (200, &json!("infinite-scheduler")));
    let paths = document["paths"].as_object().expect("paths");
    for path in paths.keys() {
        let path = path.replace("{id}", "x").replace("{app}", "x").replace("{requestId}", "x");
        let options = served.request(Method::OPTIONS, &path).send().await.expect("an answer");
        assert_eq!(options.status(), 204, "{path}");
        let allow = options.headers()["allow"].to_str().expect("text").to_lowercase();
        assert!(!allow.is_empty());
    }
    let schema = served.request(Method::GET, "/api/schema").send().await.expect("an answer");
    assert_eq!(schema.headers()["content-type"], "application/schema+json");
    let schema: Value = schema.json().await.expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let (_, apps) = served.get("/api/apps").await;
    let app = &document["components"]["schemas"]["App"]["properties"];
    for member in apps["items"][0].as_object().expect("an app").keys() {
        assert!(app.get(member).is_some(), "{member} is not in {app}");
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_was_shut_down_is_told_by_a_problem() {
    let database = Database::Sqlite.fresh().await;
    let served = Served::of(builder(database.url()), local()).await;
    served.scheduler.shutdown(super::DEADLINE).await;
    let (status, refused) = served.post("/api/jobs", &job(None, 0, "x")).await;
    assert_eq!((status, kind(&refused)), (503, "shut-down"), "{refused}");
    assert_eq!(served.get("/health/live").await.0, 200);
    assert_eq!(served.get("/health/ready").await.0, 503);
    served.server.stop().await;
}
