//! The receivers of `examples/receivers` with the real dispatcher: what is signed and in time is
//! taken, and nothing else.

#[allow(dead_code, unreachable_pub, missing_docs, missing_debug_implementations)]
#[path = "../../../examples/receivers/receiver.rs"]
mod receiver;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::http::http;
use super::{DEADLINE, DRAIN, fire_to, letter, no_jobs, schedule, schedule_to};
use crate::support::is_long;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_AfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Fires a job that is signed rightly, and one that is not.
async fn fire(port: u16) {
    let url = http(&format!("http://127.0.0.1:{port}/"));
    let secrets = |first: &str| format!("secrets = [\"{first}\"]\n");
    // Another secret is the first one while it is replaced.
    let good = format!("secrets = [\"{OTHER}\", \"{SECRET}\"]\n");
    let keys = format!("{url}{good}[apps.forger]\n{url}{}", secrets(OTHER));
    let (database, scheduler) = fire_to(&keys).await;
    schedule(&scheduler, "r-1").await;
    no_jobs(&database).await;
    assert_eq!(database.count("select count(*) from scheduler_dead_letter").await, 0);
    schedule_to(&scheduler, "forger", "r-2").await;
    let (kind, message) = letter(&database).await;
    assert_eq!(kind, "refused-by-target");
    assert!(message.contains("answered 401"), "{message}");
    scheduler.shutdown(DRAIN).await;
}

/// Two requests of one job, the later fence first.
async fn send_late(port: u16) -> [u16; 2] {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hmac::{Hmac, KeyInit, Mac};
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time")
        .as_secs();
    let key = STANDARD.decode(&SECRET[6..]).expect("base64");
    let mut statuses = [0; 2];
    for (fence, status) in [9, 5].into_iter().zip(&mut statuses) {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).expect("a key");
        mac.update(format!("i.{now_s}.{{}}").as_bytes());
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let request = client.post(format!("http://127.0.0.1:{port}/")).body("{}");
        let request = request.header("webhook-id", "i").header("webhook-timestamp", now_s);
        let request = request.header("webhook-signature", signature);
        let request =
            request.header("x-scheduler-job-id", "j").header("x-scheduler-request-id", "j");
        let answer = request.header("x-scheduler-fence", fence).send().await.expect("an answer");
        *status = answer.status().as_u16();
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_in_rust_takes_what_is_signed_and_not_late() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let done: Arc<Mutex<Vec<String>>> = Arc::default();
    let all = done.clone();
    let verifier = receiver::Verifier::new(SECRET).expect("a secret");
    std::thread::spawn(move || {
        receiver::serve(&listener, verifier, move |headers| {
            all.lock().expect("a lock").push(headers["x-scheduler-request-id"].clone());
        })
    });
    fire(port).await;
    assert_eq!(send_late(port).await, [204, 412]);
    assert_eq!(*done.lock().expect("a lock"), ["r-1", "j"]);
}

/// A receiver as a process, which ends with it.
struct Process {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    port: u16,
}

/// `None` where the language is not installed.
async fn start(program: &str, arguments: &[&str], file: &str) -> Option<Process> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/receivers");
    let mut command = Command::new(program);
    command.args(arguments).arg(folder.join(file)).arg("0").env("WEBHOOK_SECRET", SECRET);
    let started = command.stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let Ok(mut child) = started else {
        println!("{file} is not tested: {program} is not installed");
        return None;
    };
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("a line in time");
    let first = first.expect("a line").expect("a line");
    let port = first.strip_prefix("listening on ").expect("a port").parse().expect("a number");
    Some(Process { _child: child, lines, port })
}

async fn check(program: &str, arguments: &[&str], file: &str) {
    let Some(mut process) = start(program, arguments, file).await else { return };
    fire(process.port).await;
    assert_eq!(send_late(process.port).await, [204, 412], "{file}");
    for begins in ["done r-1 ", "done j 9"] {
        let line = process.lines.next_line().await.expect("a line").expect("a line");
        assert!(line.starts_with(begins), "{file}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_in_python_takes_what_is_signed_and_not_late() {
    check("python3", &[], "receiver.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_in_javascript_go_and_java_do_so_too() {
    if !is_long() {
        return;
    }
    check("node", &[], "receiver.js").await;
    check("go", &["run"], "receiver.go").await;
    check("java", &[], "Receiver.java").await;
}
