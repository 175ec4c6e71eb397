//! A Redis that asks for TLS and for a user.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use infinite_scheduler::{Operations, OperationsOptions, ScheduleJobRequest};

use super::super::authority::Authority;
use super::super::{DEADLINE, DRAIN, builder, schedule_to};
use super::ask_of;
use crate::support::process::Instance;
use crate::support::services::{Database, temporary_folder};
use crate::support::wait_until;
use crate::support::world::LEASE;

/// What must never be shown.
const HUSH: &str = "hush-4f2a";

/// A server of this test alone: by TLS for the user `sms`, who may add to one stream, and by a
/// socket for a reader.
struct SecuredRedis {
    child: Child,
    port: u16,
    socket: PathBuf,
}

impl Drop for SecuredRedis {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl SecuredRedis {
    async fn start(folder: &Path, authority: &Authority) -> Self {
        let (certificate, key) = authority.issue("127.0.0.1");
        fs::write(folder.join("server.pem"), certificate).expect("a file");
        fs::write(folder.join("server.key"), key).expect("a file");
        let port = free_port();
        let settings = format!(
            "bind 127.0.0.1\nport 0\ntls-port {port}\ntls-auth-clients no\n\
             tls-cert-file server.pem\ntls-key-file server.key\nunixsocket socket\nsave \"\"\n\
             user default off\nuser reader on nopass ~* +@all\n\
             user sms on >{HUSH} ~due +xadd +client\n"
        );
        fs::write(folder.join("redis.conf"), settings).expect("a file");
        let child = Command::new("redis-server")
            .arg("redis.conf")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let server = Self { child, port, socket: folder.join("socket") };
        wait_until(DEADLINE, "a Redis", async || server.socket.exists()).await;
        server
    }

    /// Two apps: one whose stream the user may write, and another.
    fn apps(&self) -> String {
        ["due", "elsewhere"]
            .map(|key| {
                format!(
                    "[apps.{key}]\ndispatch = \"redis\"\ncommand = \"xadd\"\nkey = \"{key}\"\n\
                 url = \"rediss://sms:{HUSH}@127.0.0.1:{}\"\n",
                    self.port
                )
            })
            .concat()
    }

    async fn entries(&self) -> usize {
        let url = format!("redis+unix://{}?user=reader&pass=any", self.socket.display());
        ask_of(&url, &["XLEN", "due"]).await
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_reaches_a_redis_by_tls_and_as_a_user_if_its_certificate_is_trusted() {
    let folder = temporary_folder();
    let authority = Authority::new();
    let redis = SecuredRedis::start(folder.path(), &authority).await;
    let database = Database::Sqlite.fresh().await;

    // The system's roots have not signed it.
    let keys = format!("dispatch = \"discard\"\n{}", redis.apps());
    let scheduler = builder(&database, &keys).start().await.expect("a start");
    schedule_to(&scheduler, "due", "r-1").await;
    wait_until(DEADLINE, "a report of the certificate", async || {
        let degraded = scheduler.health().degraded;
        assert!(degraded.iter().all(|it| !it.message.contains(HUSH)), "{degraded:?}");
        degraded.iter().any(|it| {
            it.subject == "target of due" && it.message.contains("certificate verify failed")
        })
    })
    .await;
    assert_eq!(database.count("select count(*) from scheduler_job where attempts = 0").await, 1);
    scheduler.shutdown(DRAIN).await;

    let roots = folder.path().join("ca.pem");
    fs::write(&roots, authority.pem()).expect("a file");
    let config = format!(
        "[database]\nurl = \"{}\"\n[instance]\nlease_ms = {}\n{}",
        database.url(),
        LEASE.as_millis(),
        redis.apps()
    );
    let roots = roots.to_str().expect("a text");
    let instance = Instance::spawn_with(&config, &[("SSL_CERT_FILE", roots)]);
    wait_until(DEADLINE, "an entry", async || redis.entries().await == 1).await;
    let operations = Operations::connect(OperationsOptions::new(database.url()).lease(LEASE));
    let operations = operations.await.expect("a database");
    let request = ScheduleJobRequest::builder("elsewhere").request_id("r-2");
    let request = request.at("2020-01-01T00:00:00Z").build().expect("a request");
    operations.jobs().schedule(request).await.expect("a job");
    operations.close().await;
    wait_until(DEADLINE, "a report of the right", async || {
        instance.stderr().contains("answered NoPerm")
    })
    .await;
    assert_eq!(database.count("select count(*) from scheduler_job where attempts = 0").await, 1);
    assert!(!instance.stderr().contains(HUSH) && !instance.stdout().contains(HUSH));
}
