//! `dispatch = "http"` by TLS: own roots, a certificate of another name, client certificates and
//! files that change.

use std::fs;
use std::path::Path;

use infinite_scheduler::Scheduler;

use super::authority::{Authority, TlsReceiver};
use super::{DEADLINE, DRAIN, builder, no_jobs, schedule_to};
use crate::support::services::Database;
use crate::support::wait_until;

fn app(name: &str, port: u16, keys: &str) -> String {
    format!(
        "[apps.{name}]\nshards = 1\nbackoff = {{ delays_ms = [200] }}\ndispatch = \"http\"\n\
         url = \"https://127.0.0.1:{port}/hush\"\n{keys}\n"
    )
}

fn quoted(key: &str, file: &Path) -> String {
    format!("{key} = \"{}\"\n", file.display())
}

async fn reported(scheduler: &Scheduler, app: &str, says: &str) {
    wait_until(DEADLINE, "a report of the target", async || {
        let subject = format!("target of {app}");
        let degraded = scheduler.health().degraded;
        degraded.iter().any(|it| it.subject == subject && it.message.contains(says))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_roots_of_the_app_are_trusted_and_only_for_the_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, authority.pem()).expect("a file");
    let good = TlsReceiver::start(authority.issue("127.0.0.1"), None);
    let other = TlsReceiver::start(authority.issue("192.0.2.1"), None);
    let ca = quoted("ca", &ca);
    let keys = [
        app("good", good.port(), &ca),
        app("stranger", good.port(), ""),
        app("other", other.port(), &ca),
    ];
    let database = Database::Sqlite.fresh().await;
    let keys = format!("dispatch = \"discard\"\n{}", keys.concat());
    let scheduler = builder(&database, &keys).start().await.expect("a start");
    for app in ["good", "stranger", "other"] {
        schedule_to(&scheduler, app, "r").await;
    }
    for app in ["stranger", "other"] {
        reported(&scheduler, app, "TLS with 127.0.0.1:").await;
    }
    wait_until(DEADLINE, "a job of good", async || good.served() == 1).await;
    assert_eq!(other.served(), 0);
    assert_eq!(database.count("select count(*) from scheduler_job where attempts = 0").await, 2);
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_and_read_again_when_its_files_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let [authority, stranger] = [Authority::new(), Authority::new()];
    let receiver = TlsReceiver::start(authority.issue("127.0.0.1"), Some(&authority));
    let file = |name: &str| folder.path().join(name);
    let write = |by: &Authority| {
        let (certificate, key) = by.issue("client");
        fs::write(file("client.pem"), certificate).expect("a file");
        fs::write(file("client.key"), key).expect("a file");
    };
    fs::write(file("ca.pem"), authority.pem()).expect("a file");
    write(&stranger);
    let keys = [("ca", "ca.pem"), ("client_cert", "client.pem"), ("client_key", "client.key")];
    let keys = keys.map(|(key, name)| quoted(key, &file(name))).concat();
    let database = Database::Sqlite.fresh().await;
    let keys = app("known", receiver.port(), &format!("{keys}max_attempts = 1000"));
    let keys = format!("dispatch = \"discard\"\n{keys}");
    let scheduler = builder(&database, &keys).start().await.expect("a start");
    schedule_to(&scheduler, "known", "r").await;
    wait_until(DEADLINE, "a refusal of the certificate", async || receiver.refused() > 0).await;
    assert_eq!(receiver.served(), 0);
    write(&authority);
    no_jobs(&database).await;
    assert_eq!(receiver.served(), 1);
    scheduler.shutdown(DRAIN).await;
}
