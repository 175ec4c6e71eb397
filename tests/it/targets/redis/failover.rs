//! A Redis that another one replaces, and one that says nothing for a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use infinite_scheduler::{ScheduleJobRequest, Scheduler, Submitted};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::super::{DEADLINE, DRAIN, fire_to, no_jobs};
use super::ask_of;
use crate::support::servers::Server;
use crate::support::services::temporary_folder;
use crate::support::wait_until;

/// Jobs of each part, one each tenth of a second.
const JOBS: usize = 60;

/// Leads each new connection to the server that is the master by then; the others stay where they
/// are.
struct Relay {
    port: u16,
    master: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    async fn start(master: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let master = Arc::new(Mutex::new(master.to_owned()));
        let known = master.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.expect("a connection");
                let address = known.lock().expect("a lock").clone();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(address).await.expect("a server");
                    // An end of either side.
                    copy_bidirectional(&mut client, &mut server).await.ok();
                });
            }
        });
        Self { port, master, task }
    }

    fn lead_to(&self, master: &str) {
        *self.master.lock().expect("a lock") = master.to_owned();
    }
}

/// Host and port.
fn address(server: &Server) -> String {
    server.address().trim_start_matches("redis://").to_owned()
}

async fn is_said(server: &Server, section: &str, line: &str) -> bool {
    ask_of::<String>(server.address(), &["INFO", section]).await.contains(line)
}

/// Schedules the jobs of one part, from now on.
async fn schedule_part(scheduler: &Scheduler, name: &str) {
    let now = DateTime::<Utc>::from(std::time::SystemTime::now());
    let requests = (0..JOBS).map(|n| {
        let request = ScheduleJobRequest::builder("sms").request_id(format!("{name}-{n}"));
        request.at(now + Duration::from_millis(100 * n as u64)).build().expect("a request")
    });
    for answer in scheduler.schedule_all(requests).await {
        assert!(matches!(answer, Ok(Submitted::Accepted { .. })), "{answer:?}");
    }
}

async fn length(server: &Server) -> usize {
    ask_of(server.address(), &["XLEN", "due"]).await
}

/// The attempts and the fences of the entries of a part, by request.
async fn entries(server: &Server, part: &str) -> BTreeMap<String, Vec<(String, u64)>> {
    let entries: Vec<(String, Vec<String>)> =
        ask_of(server.address(), &["XRANGE", "due", "-", "+"]).await;
    let mut known: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for (_, fields) in entries {
        let field = |name: &str| {
            let pair = fields.chunks(2).find(|pair| pair[0] == name);
            pair.expect("a field")[1].clone()
        };
        let fence = field("fence").parse().expect("a number");
        known.entry(field("request-id")).or_default().push((field("attempt"), fence));
    }
    known.retain(|request, _| request.starts_with(part));
    known
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_costs_nothing_and_a_silent_server_no_letter() {
    let logs = temporary_folder();
    let start = || tokio::task::block_in_place(|| Server::start("redis", logs.path()));
    let (first, mut second) = (start(), start());
    let [first_at, second_at] = [&first, &second].map(address);
    let relay = Relay::start(&first_at).await;
    let follow = |address: &str| address.replace(':', " ");
    let port_of = |address: &str| follow(address).split(' ').nth(1).expect("a port").to_owned();
    let words = ["REPLICAOF", "127.0.0.1", &port_of(&first_at)];
    ask_of::<String>(second.address(), &words).await;
    wait_until(DEADLINE, "a follower", async || {
        is_said(&second, "replication", "master_link_status:up").await
            && is_said(&first, "replication", "state=online").await
    })
    .await;
    let (database, scheduler) = fire_to(&format!(
        "dispatch = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\nkey = \"due\"\ncommand = \"xadd\"\n\
         timeout_ms = 3000\n",
        relay.port
    ))
    .await;

    schedule_part(&scheduler, "moved").await;
    wait_until(DEADLINE, "some entries", async || length(&first).await >= 10).await;
    relay.lead_to(&second_at);
    // It closes no connection, and refuses every command that writes from then on.
    let words = ["FAILOVER", "TO", "127.0.0.1", &port_of(&second_at)];
    ask_of::<String>(first.address(), &words).await;
    no_jobs(&database).await;
    assert!(is_said(&first, "replication", "role:slave").await, "the first one follows now");
    let moved = entries(&second, "moved").await;
    assert_eq!(moved.len(), JOBS);
    for (request, entries) in &moved {
        assert!(matches!(&entries[..], [(attempt, _)] if attempt == "1"), "{request}: {entries:?}");
    }
    let metrics = scheduler.ingest_metrics().apps["sms"].clone();
    assert_eq!((metrics.failed, metrics.dead), (0, 0));
    assert!(metrics.not_sent > 0, "the first server has refused a job: {metrics:?}");

    schedule_part(&scheduler, "silent").await;
    wait_until(DEADLINE, "some entries", async || length(&second).await >= JOBS + 5).await;
    tokio::task::block_in_place(|| second.order("suspend"));
    wait_until(DEADLINE, "an open circuit", async || {
        scheduler.ingest_metrics().apps["sms"].circuit_open == 1
    })
    .await;
    tokio::task::block_in_place(|| second.order("resume"));
    no_jobs(&database).await;
    let silent = entries(&second, "silent").await;
    assert_eq!(silent.len(), JOBS);
    for (request, entries) in &silent {
        assert!(entries.len() <= 2, "{request}: {entries:?}");
        assert!(entries.is_sorted_by(|a, b| a.1 < b.1), "a later one has the greater fence");
    }
    assert_eq!(database.count("select count(*) from scheduler_dead_letter").await, 0);
    assert!(scheduler.health().degraded.is_empty(), "{:?}", scheduler.health().degraded);
    scheduler.shutdown(DRAIN).await;
}
