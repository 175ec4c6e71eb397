//! The random faults of instances, database and broker, and a diary of them.
//!
//! Each of the three has its own sequence, so that faults occur alone and together. A sequence has
//! all faults in random order before one is repeated.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::crew::{Crew, LEASE, SIZE, UNSETTLED};
use super::topics::{Cluster, DLQ};
use crate::support::servers::Server;

/// Something that happened, by this machine's clock.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) from_ms: i64,
    pub(super) until_ms: i64,
    /// How many jobs may fire again because of it.
    pub(super) again: usize,
    /// Whether an instance was suspended: what it had in hand comes late.
    pub(super) suspends: bool,
}

/// What happened so far; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Diary {
    troubles: Arc<Mutex<Vec<Trouble>>>,
    file: Arc<Mutex<File>>,
    began: Instant,
}

impl Diary {
    pub(super) fn new(file: PathBuf) -> Self {
        let file = Arc::new(Mutex::new(File::create(file).expect("a diary")));
        Self { troubles: Arc::default(), file, began: Instant::now() }
    }

    pub(super) fn note(&self, what: &str) {
        let line = format!("{:7.2} s  {what}", self.began.elapsed().as_secs_f64());
        eprintln!("{line}");
        let mut file = self.file.lock().expect("a whole diary");
        writeln!(file, "{} {line}", now_ms()).expect("room for a line");
    }

    pub(super) fn troubles(&self) -> Vec<Trouble> {
        self.troubles.lock().expect("a whole diary").clone()
    }

    /// Notes the begin of a fault, and its end when `last` has ended.
    async fn trouble(&self, what: &str, again: usize, last: impl Future<Output = ()>) {
        self.note(what);
        let from_ms = now_ms();
        last.await;
        let until_ms = now_ms();
        self.note(&format!("over: {what}"));
        let suspends = what.starts_with("suspend instance");
        let trouble = Trouble { from_ms, until_ms, again, suspends };
        self.troubles.lock().expect("a whole diary").push(trouble);
    }
}

/// When faults end: in time, or as soon as one of them fails.
#[derive(Clone, Debug)]
pub(super) struct Over {
    at: Instant,
    broken: Arc<AtomicBool>,
}

impl Over {
    pub(super) fn after(length: Duration) -> Self {
        Self { at: Instant::now() + length, broken: Arc::default() }
    }

    fn has_come(&self) -> bool {
        Instant::now() >= self.at || self.broken.load(Ordering::Acquire)
    }

    /// Each sequence has its own thread, because commands to servers block.
    pub(super) async fn live<T, F>(&self, life: impl FnOnce(Self) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let (over, runtime) = (self.clone(), Handle::current());
        let thread = tokio::task::spawn_blocking(move || {
            let _guard = BreakOnPanic(over.broken.clone());
            runtime.block_on(life(over))
        });
        thread.await.expect("troubles that can be made")
    }
}

/// One life that ends in a panic ends the others.
struct BreakOnPanic(Arc<AtomicBool>);

impl Drop for BreakOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// Troubles in an order by chance, each as often as the others.
struct Deck<T: 'static> {
    all: &'static [T],
    left: Vec<T>,
}

impl<T: Copy> Deck<T> {
    fn new(all: &'static [T]) -> Self {
        Self { all, left: Vec::new() }
    }

    fn draw(&mut self, rng: &mut fastrand::Rng) -> T {
        if self.left.is_empty() {
            self.left = self.all.to_vec();
            rng.shuffle(&mut self.left);
        }
        self.left.pop().expect("a trouble")
    }
}

#[derive(Clone, Copy)]
enum OfInstance {
    Kill,
    Suspend,
    End,
}

/// Kills, suspends and ends instances, and starts others; returns those that are left.
pub(super) async fn of_instances(
    mut crew: Crew,
    diary: Diary,
    mut rng: fastrand::Rng,
    over: Over,
) -> Crew {
    let mut deck = Deck::new(&[OfInstance::Kill, OfInstance::Suspend, OfInstance::End]);
    loop {
        pause(&mut rng, 500..2_500).await;
        crew.check();
        if over.has_come() {
            return crew;
        }
        let number = crew.any(&mut rng);
        match deck.draw(&mut rng) {
            OfInstance::Kill => {
                let what = format!("kill instance {number}");
                let killed = async {
                    crew.kill(number);
                    pause(&mut rng, 0..2_000).await;
                    diary.note(&format!("start instance {}", crew.join()));
                };
                diary.trouble(&what, UNSETTLED, killed).await;
            }
            OfInstance::Suspend => {
                let what = format!("suspend instance {number}");
                let lease_ms = LEASE.as_millis() as u64;
                let suspended = async {
                    crew.instance(number).stop();
                    // Also longer than Kafka's session.
                    pause(&mut rng, lease_ms + 500..lease_ms + 6_000).await;
                    crew.instance(number).cont();
                };
                diary.trouble(&what, UNSETTLED, suspended).await;
            }
            // Before that it does not listen to signals.
            OfInstance::End if crew.instance(number).stdout().contains("listening on") => {
                let ended = async {
                    crew.end(number).await;
                    diary.note(&format!("start instance {}", crew.join()));
                };
                diary.trouble(&format!("end instance {number}"), UNSETTLED, ended).await;
            }
            OfInstance::End => {}
        }
    }
}

#[derive(Clone, Copy)]
enum OfServer {
    Kill,
    Suspend,
    DeleteDlq,
}

/// Kills and suspends the database, and gives it back when all is over.
pub(super) async fn of_database(
    mut server: Server,
    diary: Diary,
    mut rng: fastrand::Rng,
    over: Over,
) -> Server {
    let mut deck = Deck::new(&[OfServer::Kill, OfServer::Suspend]);
    loop {
        pause(&mut rng, 1_000..6_000).await;
        if over.has_come() {
            return server;
        }
        of_server(&mut server, deck.draw(&mut rng), &diary, &mut rng).await;
    }
}

/// Kills and suspends the broker and deletes the DLQ topic for a while. Returns when
/// that was there again for good.
pub(super) async fn of_broker(
    mut broker: Server,
    cluster: Cluster,
    diary: Diary,
    mut rng: fastrand::Rng,
    over: Over,
) -> (Server, i64) {
    let mut deck = Deck::new(&[OfServer::Kill, OfServer::Suspend, OfServer::DeleteDlq]);
    let mut dlq_made_ms = 0;
    loop {
        pause(&mut rng, 1_000..4_000).await;
        if over.has_come() {
            return (broker, dlq_made_ms);
        }
        match deck.draw(&mut rng) {
            OfServer::DeleteDlq => {
                let without = async {
                    cluster.delete(DLQ).await;
                    pause(&mut rng, 500..4_000).await;
                    cluster.create(DLQ, 1).await;
                };
                diary.trouble("delete the DLQ topic", 0, without).await;
                dlq_made_ms = now_ms();
            }
            trouble => of_server(&mut broker, trouble, &diary, &mut rng).await,
        }
    }
}

async fn of_server(server: &mut Server, trouble: OfServer, diary: &Diary, rng: &mut fastrand::Rng) {
    let (begin, end, pauses) = match trouble {
        OfServer::Kill => ("kill", "start", 0..5_000),
        _ => ("suspend", "resume", 500..6_000),
    };
    let what = format!("{begin} {}", server.name());
    let away = async {
        server.order(begin);
        pause(rng, pauses).await;
        server.order(end);
    };
    diary.trouble(&what, SIZE * UNSETTLED, away).await;
}

/// Troubles last for a while, and between them there is peace for a while: nothing is waited for.
async fn pause(rng: &mut fastrand::Rng, ms: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.u64(ms))).await;
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    since.as_millis() as i64
}
