//! A proxy between an instance and its database server that can lose the answer to a COMMIT, keep
//! a transaction open, be slow, stop responding, or be unavailable.

mod tests;
mod wire;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wire::{CommitWatch, Dialect, Frames, TransactionState};

/// Listens on a port of its own and passes everything on to one server, unless a method changes
/// that.
///
/// Markers are bytes of the client's requests, best a value that is bound to a parameter: the
/// text of a statement is also sent when it is prepared.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of the server of `server_url` (`postgres://` or `mysql://`).
    pub(crate) async fn start(server_url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let shared = Arc::new(Shared {
            dialect: Dialect::of(server_url),
            server: authority(server_url).1.to_owned(),
            orders: Mutex::default(),
            cuts: AtomicUsize::new(0),
            holds: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            closings: watch::Sender::new(0),
            silences: watch::Sender::new(0),
            releases: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared, accepting }
    }

    /// `original_url`, but through this proxy, and without TLS, so that it can read along.
    pub(crate) fn url(&self, original_url: &str) -> String {
        let (start, server, rest) = authority(original_url);
        debug_assert!(!server.is_empty());
        let joint = if rest.contains('?') { '&' } else { '?' };
        let plain = match self.shared.dialect {
            Dialect::Postgres => "sslmode=disable",
            Dialect::MySql => "ssl-mode=DISABLED",
        };
        format!("{start}127.0.0.1:{}{rest}{joint}{plain}", self.port)
    }

    /// When a request has carried `marker`: passes everything on until what it did is committed on the
    /// server, then swallows the answer and closes both sides. Once; a transaction that is rolled back
    /// or fails does not count.
    pub(crate) fn cut_after_commit(&self, marker: &[u8]) {
        self.shared.orders().cut = Some(marker.to_owned());
    }

    /// The same, but the answer is only delayed, until [`Proxy::release`].
    pub(crate) fn withhold_after_commit(&self, marker: &[u8]) {
        let mut orders = self.shared.orders();
        (orders.cut, orders.withhold) = (Some(marker.to_owned()), true);
    }

    /// When a statement has carried `marker`: lets the server execute it, but passes nothing on
    /// that the client sends afterwards on that connection, until [`Proxy::release`]. Its
    /// transaction stays open meanwhile, whatever happens to the client. Once.
    ///
    /// On PostgreSQL that holds for a statement with parameters in autocommit, too; on MariaDB only
    /// for one in an explicit transaction.
    pub(crate) fn hold_after(&self, marker: &[u8]) {
        self.shared.orders().hold = Some(marker.to_owned());
    }

    /// Releases held connections and answers, and clears the markers.
    pub(crate) fn release(&self) {
        self.shared.orders().hold = None;
        self.shared.releases.send_modify(|count| *count += 1);
    }

    /// Closes every connection; new ones are accepted.
    pub(crate) fn cut_all(&self) {
        self.shared.closings.send_modify(|count| *count += 1);
    }

    /// While unavailable, every connection is closed, and so is each new one at once.
    pub(crate) fn set_unavailable(&self, unavailable: bool) {
        self.shared.orders().unavailable = unavailable;
        if unavailable {
            self.cut_all();
        }
    }

    /// From now on every answer is delayed by this much.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.shared.orders().delay = delay;
    }

    /// Every connection stays open but passes nothing on, as when the server's machine has
    /// failed; new ones are accepted.
    pub(crate) fn silence_all(&self) {
        self.shared.silences.send_modify(|count| *count += 1);
    }

    /// How often an answer to a commit was swallowed.
    pub(crate) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// How many connections were closed at once because it was unavailable.
    pub(crate) fn refusals(&self) -> usize {
        self.shared.refusals.load(Ordering::SeqCst)
    }

    /// How often a connection was held, or the answer to a commit.
    pub(crate) fn holds(&self) -> usize {
        self.shared.holds.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut_all();
    }
}

#[derive(Debug)]
struct Shared {
    dialect: Dialect,
    /// `host:port`.
    server: String,
    orders: Mutex<Orders>,
    cuts: AtomicUsize,
    holds: AtomicUsize,
    refusals: AtomicUsize,
    closings: watch::Sender<u64>,
    silences: watch::Sender<u64>,
    releases: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Orders {
    cut: Option<Vec<u8>>,
    /// The answer that would be swallowed is delayed instead.
    withhold: bool,
    hold: Option<Vec<u8>>,
    unavailable: bool,
    delay: Duration,
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.orders().unavailable {
            shared.refusals.fetch_add(1, Ordering::SeqCst);
        } else {
            let closings = shared.closings.subscribe();
            tokio::spawn(Connection::serve(client, closings, Arc::clone(&shared)));
        }
    }
}

/// One client's connection and ours to the server.
struct Connection {
    shared: Arc<Shared>,
    client: TcpStream,
    server: TcpStream,
    requests: Frames,
    answers: Frames,
    /// Answer frames of a group that may turn out to be the one to swallow.
    kept_back: Vec<u8>,
    commits: CommitWatch,
    /// The marker to hold after has gone by, the statement that it belongs to perhaps not yet.
    hold_marked: bool,
    held: bool,
    /// `kept_back` is the answer to a commit, which is to come late.
    withheld: bool,
}

enum Next {
    GoOn,
    Close,
}

impl Connection {
    async fn serve(client: TcpStream, mut closings: watch::Receiver<u64>, shared: Arc<Shared>) {
        let served = async {
            let server = TcpStream::connect(&shared.server).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let dialect = shared.dialect;
            let connection = Self {
                shared,
                client,
                server,
                requests: Frames::from_client(dialect),
                answers: Frames::from_server(dialect),
                kept_back: Vec::new(),
                commits: CommitWatch::new(dialect),
                hold_marked: false,
                held: false,
                withheld: false,
            };
            connection.pass_on().await
        };
        // Whatever ends it, a closed socket or an order, both sides are closed by being dropped.
        tokio::select! {
            _ = closings.changed() => {}
            _ = served => {}
        }
    }

    async fn pass_on(mut self) -> io::Result<()> {
        let mut releases = self.shared.releases.subscribe();
        let mut silences = self.shared.silences.subscribe();
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        let mut late = VecDeque::new();
        loop {
            tokio::select! {
                read = self.client.read_buf(&mut requests), if !self.held => {
                    if read? == 0 {
                        return Ok(());
                    }
                    self.requests.bytes.extend(requests.drain(..));
                    self.pass_requests().await?;
                }
                read = self.server.read_buf(&mut answers) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    let due = Instant::now() + self.shared.orders().delay;
                    late.push_back((due, std::mem::take(&mut answers)));
                }
                () = due(&late), if !self.withheld => {
                    let (_, answer) = late.pop_front().unwrap_or_else(|| unreachable!("it was due"));
                    self.answers.bytes.extend(answer);
                    if let Next::Close = self.pass_answers().await? {
                        return Ok(());
                    }
                }
                _ = silences.changed() => {
                    // What was sent has come through.
                    self.held = false;
                    self.pass_requests().await?;
                    return std::future::pending().await;
                }
                _ = releases.changed() => {
                    self.held = false;
                    self.pass_requests().await?;
                    if std::mem::take(&mut self.withheld) {
                        self.client.write_all(&std::mem::take(&mut self.kept_back)).await?;
                    }
                }
            }
        }
    }

    async fn pass_requests(&mut self) -> io::Result<()> {
        let mut onwards = Vec::new();
        while !self.held
            && let Some(frame) = self.requests.next()
        {
            self.look_at_request(&frame);
            onwards.extend(frame);
        }
        self.server.write_all(&onwards).await
    }

    fn look_at_request(&mut self, frame: &[u8]) {
        let mut orders = self.shared.orders();
        if let Some(marker) = orders.cut.take_if(|marker| contains(frame, marker)) {
            self.commits.marker = Some(marker);
        }
        if self.commits.request(frame) == TransactionState::RolledBack {
            orders.cut = self.commits.marker.take();
        }
        self.hold_marked |= orders.hold.take_if(|marker| contains(frame, marker)).is_some();
        if self.hold_marked && self.shared.dialect.executes(frame) {
            self.hold_marked = false;
            self.held = true;
            self.shared.holds.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn pass_answers(&mut self) -> io::Result<Next> {
        while let Some(frame) = self.answers.next() {
            let state = self.commits.answer(&frame);
            self.kept_back.extend(frame);
            match state {
                TransactionState::Committed => {
                    if std::mem::take(&mut self.shared.orders().withhold) {
                        self.commits.marker = None;
                        self.withheld = true;
                        self.shared.holds.fetch_add(1, Ordering::SeqCst);
                        return Ok(Next::GoOn);
                    }
                    self.shared.cuts.fetch_add(1, Ordering::SeqCst);
                    return Ok(Next::Close);
                }
                TransactionState::RolledBack => {
                    self.shared.orders().cut = self.commits.marker.take()
                }
                TransactionState::Undecided => continue,
                TransactionState::Open => {}
            }
            self.client.write_all(&self.kept_back).await?;
            self.kept_back.clear();
        }
        Ok(Next::GoOn)
    }
}

/// Waits until the first of these is to go on.
async fn due(late: &VecDeque<(Instant, Vec<u8>)>) {
    match late.front() {
        Some((due, _)) => tokio::time::sleep_until(*due).await,
        None => std::future::pending().await,
    }
}

fn contains(frame: &[u8], marker: &[u8]) -> bool {
    frame.windows(marker.len()).any(|window| window == marker)
}

/// A URL's parts before, at and after `host:port`.
fn authority(url: &str) -> (&str, &str, &str) {
    let after_scheme = url.find("://").expect("a URL") + "://".len();
    let end = url[after_scheme..].find(['/', '?']).map_or(url.len(), |i| after_scheme + i);
    let start = url[..end].rfind('@').map_or(after_scheme, |i| i + 1);
    (&url[..start], &url[start..end], &url[end..])
}
