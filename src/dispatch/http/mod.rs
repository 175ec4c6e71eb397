//! The handler of `dispatch = "http"`: a fired job becomes a POST to the app's URL.

mod body;
mod request;
mod resolver;
mod retry_after;
mod session;
mod settings;
mod signature;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use reqwest::{Body, Response, StatusCode};

use self::body::{Watch, WatchedBody};
use self::resolver::NotResolved;
use self::session::{FileVersions, Session};
use self::settings::host_of;
use super::{About, DynJobHandler, Failure, JobContext, Target};
use crate::model::app::AppConfig;
use crate::model::clock::{Clock, SystemClock};

pub use self::settings::HttpTarget;
pub(crate) use self::settings::SecretSource;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// No connection is used much longer than this, so that a changed address is noticed.
const RENEW: Duration = Duration::from_secs(60);
/// How often it is checked whether a certificate, key or secret has changed.
const CHECK: Duration = Duration::from_secs(1);
/// What is read of an answer's body at most, in bytes and time.
const READ: (usize, Duration) = (64 * 1024, Duration::from_secs(1));
/// What an error keeps of it, in bytes.
const KEPT: usize = 1024;

/// Sends each job to one URL. The attempt succeeds with a status of 2xx.
#[derive(Debug)]
pub(crate) struct HttpDispatch {
    target: HttpTarget,
    host: String,
    of_app: Target,
    /// Host and port of its proxy.
    proxy: Option<String>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    session: Arc<Session>,
    /// The files that it was made of.
    files: FileVersions,
    /// From this moment on it is checked whether they have changed.
    check_at: Instant,
    /// From this moment on it is renewed before it is used.
    renew_at: Instant,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
enum NoAnswer {
    /// Nothing was sent: there was no attempt.
    NotSent(String),
    /// Something may have reached the target.
    Unknown(String),
}

impl HttpDispatch {
    /// Fires the jobs of `app` to `target`. Logs what is in force.
    ///
    /// # Errors
    /// What cannot be read or used of the app's keys, in one sentence without secrets.
    pub(crate) fn open(target: HttpTarget, app: &AppConfig) -> Result<Self, String> {
        let name = &app.name;
        let files = FileVersions::of(&target);
        let session = Session::open(&target).map_err(|problem| format!("apps.{name}.{problem}"))?;
        tracing::info!(app = name, "app {name} fires by {}", session.describe(&target));
        let host = host_of(&session.url);
        Ok(Self {
            of_app: Target { subject: format!("target of {name}"), notes: Arc::default() },
            proxy: session::proxy_of(&target),
            current: Mutex::new(Current {
                session: Arc::new(session),
                files,
                check_at: Instant::now() + CHECK,
                renew_at: Instant::now() + RENEW,
            }),
            target,
            host,
        })
    }

    /// The session, renewed if it is old or its files have changed. One that cannot be renewed is
    /// used on.
    async fn session(&self) -> Arc<Session> {
        let (files, is_old) = {
            let mut current = self.current();
            let now = Instant::now();
            let is_old = now >= current.renew_at;
            let is_checked = now >= current.check_at && !current.files.is_empty();
            if !is_old && !is_checked {
                return current.session.clone();
            }
            // Others go on with the old one meanwhile.
            current.check_at = now + CHECK;
            current.renew_at = if is_old { now + RENEW } else { current.renew_at };
            (current.files.clone(), is_old)
        };
        let target = self.target.clone();
        let renew = move || {
            let now = FileVersions::of(&target);
            (is_old || now != files).then(|| (now, Session::open(&target)))
        };
        let renewed = tokio::task::spawn_blocking(renew).await;
        let mut current = self.current();
        match renewed {
            Ok(None) => {}
            Ok(Some((files, Ok(session)))) => {
                current.files = files;
                current.session = Arc::new(session);
            }
            Ok(Some((files, Err(problem)))) => {
                // Read again when they change once more.
                current.files = files;
                let host = &self.host;
                tracing::warn!(host, "what was read before is used on for {host}: {problem}");
            }
            // The runtime is ending.
            Err(_) => {}
        }
        current.session.clone()
    }

    /// After a failure no connection of the time before is used again.
    fn leave(&self, session: &Arc<Session>) {
        let mut current = self.current();
        if Arc::ptr_eq(&current.session, session) {
            current.renew_at = Instant::now();
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the job and waits for the head of the answer.
    async fn send(&self, ctx: &JobContext, session: &Session) -> Result<Response, NoAnswer> {
        let (body, headers) = request::of(ctx, session, SystemClock.now_ms(), &self.of_app.notes);
        let (body, Watch { begun, all_taken }) = WatchedBody::new(body.into());
        let request = session.client.post(session.url.clone()).headers(headers);
        let mut sending = pin!(request.body(Body::wrap(body)).send());
        let timeout = ctx.timeout();
        let connect = CONNECT.min(timeout);
        let mut begun = pin!(begun);
        let answer = tokio::select! {
            biased;
            answer = &mut sending => answer,
            _ = &mut begun => match tokio::time::timeout(timeout, sending).await {
                Ok(answer) => answer,
                Err(_) => {
                    let step = step(all_taken.load(Ordering::Relaxed));
                    let limit = timeout.as_millis();
                    let why = format!("{step} {} took longer than {limit} ms", self.host);
                    return Err(NoAnswer::Unknown(why));
                }
            },
            () = tokio::time::sleep(connect) => {
                let limit = connect.as_millis();
                let why = format!("connecting to {} took longer than {limit} ms", self.host);
                return Err(NoAnswer::NotSent(why));
            }
        };
        answer.map_err(|error| {
            let why = cause_of(&error);
            if error.is_connect() {
                let step = connect_step(&error, self.proxy.as_deref());
                return NoAnswer::NotSent(format!("{step} {} failed: {why}", self.host));
            }
            let step = step(all_taken.load(Ordering::Relaxed));
            NoAnswer::Unknown(format!("{step} {} failed: {why}", self.host))
        })
    }

    /// What an answer means for the job.
    async fn judge(&self, response: Response) -> Result<(), Failure> {
        let status = response.status();
        let retry_after = retry_after::wanted(response.headers());
        let body = beginning_of(response).await;
        if status.is_success() {
            return Ok(());
        }
        let mut why = format!("{} answered {status}", self.host);
        if !body.is_empty() {
            why = format!("{why}: {body}");
        }
        let again = |about| Err(Failure::Again { why: why.clone(), retry_after, about });
        match status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED if self.proxy.is_some() => {
                Err(Failure::NotSent(format!("its proxy refuses: {why}")))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(Failure::TooMany { why, retry_after }),
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::CONFLICT
            | StatusCode::MISDIRECTED_REQUEST
            | StatusCode::TOO_EARLY => again(About::Job),
            StatusCode::SERVICE_UNAVAILABLE => again(About::BusyTarget),
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => again(About::Target),
            _ if status.is_server_error() => again(About::Job),
            // Probably the address or the credentials are wrong.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                Err(Failure::Refused { why, about: About::Target })
            }
            _ => Err(Failure::Refused { why, about: About::Job }),
        }
    }
}

impl DynJobHandler for HttpDispatch {
    fn execute<'a>(&'a self, ctx: &'a JobContext) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async {
            let session = self.session().await;
            match self.send(ctx, &session).await {
                Ok(response) => self.judge(response).await,
                Err(NoAnswer::NotSent(why)) => Err(Failure::NotSent(why)),
                Err(NoAnswer::Unknown(why)) => {
                    self.leave(&session);
                    Err(Failure::NoAnswer(why))
                }
            }
        })
    }

    fn name(&self) -> &str {
        "http"
    }

    /// The time limit starts with a connection in hand.
    fn target(&self) -> Option<Target> {
        Some(self.of_app.clone())
    }
}

fn step(all_taken: bool) -> &'static str {
    if all_taken { "waiting for the head of the answer of" } else { "sending to" }
}

/// What failed before a connection was there.
fn connect_step(error: &reqwest::Error, proxy: Option<&str>) -> String {
    // The proxy may be what was not resolved or does not answer.
    let by = proxy.map_or_else(String::new, |proxy| format!("by proxy {proxy} "));
    for cause in causes(error) {
        if cause.is::<NotResolved>() {
            return "resolving".into();
        }
        let text = cause.to_string();
        let is_of_proxy = text.contains("tunnel") || text.contains("proxy authorization");
        let is_io = cause.downcast_ref::<io::Error>().is_some_and(|io| io.raw_os_error().is_some());
        if is_io || is_of_proxy {
            return format!("connecting {by}to");
        }
    }
    "TLS with".into()
}

/// The innermost cause: those around it repeat the step, and the outermost has the URL.
fn cause_of(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| "no connection".to_owned(), ToString::to_string)
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

/// Reads the beginning of the body, and keeps of it what an error can show.
async fn beginning_of(mut response: Response) -> String {
    let mut read = 0;
    let mut kept = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            kept.extend_from_slice(&chunk[..chunk.len().min(KEPT - kept.len())]);
            if read >= READ.0 {
                break;
            }
        }
    };
    // What was read until then is enough.
    drop(tokio::time::timeout(READ.1, reading).await);
    let text = String::from_utf8_lossy(&kept);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
