//! The handler of `dispatch = "http"`: a fired job becomes a POST to the app's URL.

mod body;
mod request;
mod resolver;
mod retry_after;
mod session;
mod settings;
mod signature;

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
use self::session::Session;
use self::settings::host_of;
use super::{About, DynJobHandler, Failure, JobContext};
use crate::model::app::AppConfig;
use crate::model::clock::{Clock, SystemClock};

pub use self::settings::HttpTarget;
pub(crate) use self::settings::SecretSource;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// No connection and nothing read from a file is used much longer than this, so that a changed
/// address, certificate or secret is noticed.
const RENEW: Duration = Duration::from_secs(60);
/// What is read of an answer's body at most, in bytes and time.
const READ: (usize, Duration) = (64 * 1024, Duration::from_secs(1));
/// What an error keeps of it, in bytes.
const KEPT: usize = 1024;

/// Sends each job to one URL. The attempt succeeds with a status of 2xx.
#[derive(Debug)]
pub(crate) struct HttpDispatch {
    target: HttpTarget,
    timeout: Duration,
    host: String,
    subject: String,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    session: Arc<Session>,
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
        let session = Session::open(&target).map_err(|problem| format!("apps.{name}.{problem}"))?;
        tracing::info!(app = name, "app {name} fires by {}", session.describe(&target));
        let host = host_of(&session.url);
        Ok(Self {
            timeout: app.timeout,
            subject: format!("target of {name}"),
            current: Mutex::new(Current {
                session: Arc::new(session),
                renew_at: Instant::now() + RENEW,
            }),
            target,
            host,
        })
    }

    /// The session, renewed if it is old. One that cannot be renewed is used on.
    async fn session(&self) -> Arc<Session> {
        {
            let mut current = self.current();
            if Instant::now() < current.renew_at {
                return current.session.clone();
            }
            // Others go on with the old one meanwhile.
            current.renew_at = Instant::now() + RENEW;
        }
        let target = self.target.clone();
        let opened = tokio::task::spawn_blocking(move || Session::open(&target)).await;
        let mut current = self.current();
        match opened {
            Ok(Ok(session)) => current.session = Arc::new(session),
            Ok(Err(problem)) => {
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
        let (body, headers) = request::of(ctx, session, SystemClock.now_ms());
        let (body, Watch { begun, all_taken }) = WatchedBody::new(body.into());
        let request = session.client.post(session.url.clone()).headers(headers);
        let mut sending = pin!(request.body(Body::wrap(body)).send());
        let timeout = ctx.job().timeout(self.timeout);
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
                let step = connect_step(&error);
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
                    Err(Failure::Again { why, retry_after: None, about: About::Target })
                }
            }
        })
    }

    fn name(&self) -> &str {
        "http"
    }

    /// The time limit starts with a connection in hand.
    fn target(&self) -> Option<String> {
        Some(self.subject.clone())
    }
}

fn step(all_taken: bool) -> &'static str {
    if all_taken { "waiting for the head of the answer of" } else { "sending to" }
}

/// What failed before a connection was there.
fn connect_step(error: &reqwest::Error) -> &'static str {
    for cause in causes(error) {
        if cause.is::<NotResolved>() {
            return "resolving";
        }
        if cause.downcast_ref::<io::Error>().is_some_and(|io| io.raw_os_error().is_some()) {
            return "connecting to";
        }
    }
    "TLS with"
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::context::tests::context;
    use super::settings::tests::target;
    use super::*;

    fn dispatch(url: &str) -> HttpDispatch {
        HttpDispatch::open(target(url), &AppConfig::new("sms")).unwrap()
    }

    /// What becomes of a job whose target gives this answer.
    async fn after(answer: &'static str) -> Result<(), Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = [0; 4096];
            let _heard = stream.read(&mut heard).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let (ctx, url) = (context("{}"), format!("http://127.0.0.1:{port}/x?hush"));
        let result = dispatch(&url).execute(&ctx).await;
        server.await.unwrap();
        result
    }

    #[tokio::test]
    async fn the_status_decides() {
        for success in ["200 OK", "202 Accepted", "204 No Content"] {
            let answer = format!("HTTP/1.1 {success}\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(after(answer.leak()).await, Ok(()), "{success}");
        }
        for again in [408, 409, 421, 425, 500, 503, 599] {
            let answer = format!("HTTP/1.1 {again} X\r\nContent-Length: 4\r\n\r\nwhy\n");
            let result = after(answer.leak()).await;
            let kept = |why: &str| why.contains(&again.to_string()) && why.ends_with(": why");
            let about = if again == 503 { About::BusyTarget } else { About::Job };
            assert!(
                matches!(&result, Err(Failure::Again { why, about: it, .. }) if kept(why) && *it == about),
                "{result:?}"
            );
        }
        for never in [300, 304, 307, 400, 401, 404, 410, 422] {
            let answer = format!("HTTP/1.1 {never} X\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n");
            let result = after(answer.leak()).await;
            let hushed = |why: &str| !why.contains("hush");
            let about = if [401, 404].contains(&never) { About::Target } else { About::Job };
            assert!(
                matches!(&result, Err(Failure::Refused { why, about: it }) if hushed(why) && *it == about),
                "{result:?}"
            );
        }
        let wanted = Some(Duration::from_secs(7));
        for (status, is_attempt) in [(429, false), (503, true)] {
            let answer =
                format!("HTTP/1.1 {status} X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n");
            let failure = after(answer.leak()).await.unwrap_err();
            assert_eq!((failure.hold(), failure.is_attempt()), (wanted, is_attempt));
        }
    }

    #[tokio::test]
    async fn nothing_sent_is_no_attempt_and_something_sent_is_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        for (url, says) in [
            (format!("http://127.0.0.1:{port}/hush"), "connecting to 127.0.0.1:"),
            ("http://hush.invalid:81/".to_owned(), "resolving hush.invalid:81 failed: "),
        ] {
            let dispatch = dispatch(&url);
            let session = dispatch.session().await;
            let result = dispatch.send(&context("{}"), &session).await;
            assert!(
                matches!(&result, Err(NoAnswer::NotSent(why)) if why.starts_with(says)),
                "{result:?}"
            );
            let result = dispatch.execute(&context("{}")).await;
            assert!(matches!(result, Err(Failure::NotSent(_))), "{result:?}");
        }
        let result = after("").await;
        let says = "waiting for the head of the answer of 127.0.0.1:";
        assert!(
            matches!(&result, Err(Failure::Again { why, about: About::Target, .. }) if why.starts_with(says)),
            "{result:?}"
        );
    }

    #[tokio::test]
    async fn a_peer_that_speaks_no_tls_was_sent_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        let dispatch = dispatch(&format!("https://127.0.0.1:{port}/"));
        let session = dispatch.session().await;
        let result = dispatch.send(&context("{}"), &session).await;
        let says = "TLS with 127.0.0.1:";
        assert!(
            matches!(&result, Err(NoAnswer::NotSent(why)) if why.starts_with(says)),
            "{result:?}"
        );
        server.await.unwrap();
    }
}
