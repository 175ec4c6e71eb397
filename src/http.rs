//! The HTTP API: how programs, and people with `curl`, look at a scheduler and operate it.
//!
//! A handler parses, calls an operation and renders its answer; it decides nothing. Handlers
//! stand in a file for each group (`jobs`, `dead_letters` ..), and `router` puts them
//! together. What holds for every request is in `middleware`, `access`, `body` and `query`.
//!
//! The server has threads of its own, so that it answers while the scheduler waits for its
//! database, and however busy the scheduler's runtime is. It knows the scheduler by its handle
//! only, and has none until the start has succeeded.

mod router;
mod endpoint;
mod middleware;

mod jobs;
mod job_lists;
mod job_changes;
mod requests;
mod apps;
mod dead_letters;
mod ingest;
mod instances;
mod audit;
mod metrics;
mod health;
mod documents;

mod access;
mod tokens;
mod mask;
mod query;
mod body;
mod bulk;
mod fields;
mod page;
mod problem;
mod shared;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, rt, web};

use self::shared::Shared;
use self::tokens::Tokens;
use crate::config::{Config, JsonPointer, TokenConfig};
use crate::service::{Scheduler, StartProgress};

/// Threads that answer requests. The work is the scheduler's; they parse and render.
const WORKERS: usize = 2;
/// From the first byte of a request to the end of its head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection without a request is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Where a [`Server`] listens, who may do what, and what some may not see.
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerOptions {
    listen: SocketAddr,
    tokens: Vec<TokenConfig>,
    masks: BTreeMap<String, Vec<JsonPointer>>,
}

impl ServerOptions {
    /// A server on `listen`, on any free port if that is 0, without tokens.
    pub fn new(listen: impl Into<SocketAddr>) -> Self {
        Self { listen: listen.into(), tokens: Vec::new(), masks: BTreeMap::new() }
    }

    /// Accepts this token as well. With any, each request needs one, the health paths aside.
    pub fn token(mut self, token: TokenConfig) -> Self {
        self.tokens.push(token);
        self
    }

    /// Hides these parts of the `jobData` of `app` from role read.
    pub fn mask(
        mut self,
        app: impl Into<String>,
        pointers: impl IntoIterator<Item = JsonPointer>,
    ) -> Self {
        self.masks.entry(app.into()).or_default().extend(pointers);
        self
    }
}

impl From<&Config> for ServerOptions {
    fn from(config: &Config) -> Self {
        let masks = config.apps.iter();
        Self {
            listen: config.http.listen,
            tokens: config.http.tokens.clone(),
            masks: masks.map(|(name, app)| (name.to_string(), app.mask.clone())).collect(),
        }
    }
}

/// Why a server does not listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address is in use or not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Everybody could do everything.
    #[error("{0} is not a loopback address: add a token, or listen on 127.0.0.1")]
    NoToken(SocketAddr),
    /// A token has no value that can be used.
    #[error("{0}")]
    Token(String),
    /// The machine has no thread for it.
    #[error("there is no thread for the http server: {0}")]
    Thread(io::Error),
}

/// An HTTP server that listens; it goes on until it is [stopped](Self::stop).
///
/// ```no_run
/// use infinite_scheduler::Scheduler;
/// use infinite_scheduler::http::{Server, ServerOptions};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::start(ServerOptions::new(([127, 0, 0, 1], 7070)))?;
/// let scheduler = Scheduler::builder().database_url("sqlite://jobs.db?mode=rwc").start().await?;
/// server.show(scheduler.clone());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    handle: ServerHandle,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// [`ServerError::NoToken`] beyond loopback without a token, [`ServerError::Token`] for a
    /// token whose file cannot be read, [`ServerError::Listen`] if the address is in use or
    /// not this machine's.
    pub fn start(options: ServerOptions) -> Result<Self, ServerError> {
        let ServerOptions { listen, tokens, masks } = options;
        let tokens = Tokens::read(&tokens).map_err(ServerError::Token)?;
        if !listen.ip().is_loopback() && tokens.is_empty() {
            return Err(ServerError::NoToken(listen));
        }
        let refused = |source| ServerError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let shared = Arc::new(Shared::new(tokens, masks));
        let (report, reported) = mpsc::channel();
        let served = shared.clone();
        let thread = std::thread::Builder::new()
            .name("http".into())
            .spawn(move || run(listener, served, &report))
            .map_err(ServerError::Thread)?;
        let gone = || io::Error::other("its thread ended");
        let handle = reported.recv().map_err(|_| refused(gone()))?.map_err(refused)?;
        Ok(Self { address, shared, handle, thread })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows what a start waits for, until there is its scheduler.
    pub fn show_start(&self, progress: StartProgress) {
        self.shared.set_progress(progress);
    }

    /// Answers for this scheduler from now on; the first one counts.
    pub fn show(&self, scheduler: Scheduler) {
        self.shared.set_scheduler(scheduler);
    }

    /// Stops at once, requests that are under way included.
    pub async fn stop(self) {
        self.handle.stop(false).await;
        if self.thread.join().is_err() {
            tracing::error!("the http thread panicked");
        }
    }
}

fn run(
    listener: TcpListener,
    shared: Arc<Shared>,
    report: &mpsc::Sender<io::Result<ServerHandle>>,
) {
    let served = rt::System::new().block_on(async {
        drop(rt::spawn(follow_files(shared.clone())));
        let shared = web::Data::new(shared);
        let app = move || {
            App::new()
                .wrap(from_fn(middleware::around))
                .app_data(shared.clone())
                .configure(router::configure)
        };
        let server = HttpServer::new(app)
            .workers(WORKERS)
            .client_request_timeout(HEAD_WITHIN)
            .keep_alive(KEEP_ALIVE)
            .disable_signals()
            .listen(listener);
        match server.map(HttpServer::run) {
            Ok(server) => {
                report.send(Ok(server.handle())).ok();
                server.await
            }
            Err(error) => {
                report.send(Err(error)).ok();
                Ok(())
            }
        }
    });
    if let Err(error) = served {
        tracing::error!(%error, "the http server ended: {error}");
    }
}

/// Reads the tokens' files again while the server runs.
async fn follow_files(shared: Arc<Shared>) {
    loop {
        rt::time::sleep(tokens::READ_EVERY).await;
        let shared = shared.clone();
        // On a thread of its own: the files may lie on a disk that does not answer.
        if web::block(move || shared.tokens.read_again()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
