//! How programs and people look at a scheduler: health and metrics over HTTP.
//!
//! The server has a thread of its own, so that it answers while the scheduler waits for its
//! database, and however busy the scheduler's runtime is. It knows the scheduler by its
//! handle only, and has none until the start has succeeded.

mod health;
mod metrics;
mod problem;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use actix_web::dev::{Handler, ServerHandle};
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, FromRequest, HttpServer, Resource, Responder, guard, rt, web};

use crate::service::{Scheduler, StartProgress};

/// Requests are small and rare.
const WORKERS: usize = 1;

/// What there is to be shown.
type Started = Arc<Shown>;

/// The scheduler, from when it has started, and until then what its start waits for.
#[derive(Debug, Default)]
struct Shown {
    scheduler: OnceLock<Scheduler>,
    progress: OnceLock<StartProgress>,
}

impl Shown {
    fn get(&self) -> Option<&Scheduler> {
        self.scheduler.get()
    }

    fn waits_for(&self) -> Option<String> {
        self.progress.get()?.waits_for()
    }
}

/// A server that listens; it goes on until it is [stopped](Self::stop).
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    scheduler: Started,
    handle: ServerHandle,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens on `address`, on any free port if that is 0.
    ///
    /// # Errors
    /// If the address is in use or not this machine's.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let scheduler = Started::default();
        let shown = scheduler.clone();
        let (report, reported) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("http".into())
            .spawn(move || run(listener, shown, &report))?;
        let handle = reported.recv().map_err(|_| io::Error::other("its thread ended"))??;
        Ok(Self { address, scheduler, handle, thread })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows what a start waits for, until there is its scheduler.
    pub fn show_start(&self, progress: StartProgress) {
        self.scheduler.progress.set(progress).ok();
    }

    /// Shows this scheduler from now on; the first one counts.
    pub fn show(&self, scheduler: Scheduler) {
        // A second one would be a mistake of the caller's that harms nobody.
        self.scheduler.scheduler.set(scheduler).ok();
    }

    /// Stops at once, requests that are under way included.
    pub async fn stop(self) {
        self.handle.stop(false).await;
        if self.thread.join().is_err() {
            tracing::error!("the http thread panicked");
        }
    }
}

fn run(listener: TcpListener, scheduler: Started, report: &mpsc::Sender<io::Result<ServerHandle>>) {
    let scheduler = web::Data::new(scheduler);
    let served = rt::System::new().block_on(async {
        let app = move || {
            App::new()
                .wrap(DefaultHeaders::new().add(("Cache-Control", "no-store")))
                .app_data(scheduler.clone())
                .configure(routes)
        };
        let server = HttpServer::new(app).workers(WORKERS).disable_signals().listen(listener);
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

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(read_only("/health/live", health::live))
        .service(read_only("/health/ready", health::ready))
        .service(read_only("/api/metrics", metrics::metrics))
        .default_service(web::to(problem::not_found));
}

/// GET and HEAD go to `handler`; the answer to every other method names those two.
fn read_only<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let reads = guard::Any(guard::Get()).or(guard::Head());
    web::resource(path)
        .route(web::route().guard(reads).to(handler))
        .default_service(web::to(problem::read_only))
}

#[cfg(test)]
mod tests {
    use actix_web::http::{Method, StatusCode, header};
    use actix_web::test::{TestRequest, call_and_read_body, call_service, init_service};
    use serde_json::{Value, json};

    use super::*;

    /// What a scheduler that has not started yet answers.
    async fn answer(method: Method, path: &str) -> (StatusCode, String, Value) {
        let app = App::new().app_data(web::Data::new(Started::default())).configure(routes);
        let app = init_service(app).await;
        let request = || TestRequest::default().method(method.clone()).uri(path).to_request();
        let response = call_service(&app, request()).await;
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.map_or("", |kind| kind.to_str().unwrap()).to_owned();
        let status = response.status();
        let body = call_and_read_body(&app, request()).await;
        (status, kind, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    #[actix_web::test]
    async fn it_is_alive_but_not_ready_before_the_scheduler_has_started() {
        let (status, _, body) = answer(Method::GET, "/health/live").await;
        assert_eq!((status, body), (StatusCode::OK, json!({"alive": true})));
        let (status, _, body) = answer(Method::GET, "/health/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, json!({"ready": false, "reasons": ["starting"], "degraded": []}));
    }

    #[actix_web::test]
    async fn errors_are_problem_documents() {
        for (method, path, status) in [
            (Method::GET, "/api/metrics", StatusCode::SERVICE_UNAVAILABLE),
            (Method::GET, "/nowhere", StatusCode::NOT_FOUND),
            (Method::POST, "/api/metrics", StatusCode::METHOD_NOT_ALLOWED),
            (Method::DELETE, "/health/live", StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let (answered, kind, body) = answer(method, path).await;
            assert_eq!((answered, &*kind), (status, "application/problem+json"), "{path}");
            assert_eq!(body["status"], status.as_u16(), "{path}");
            assert_eq!(body["title"], status.canonical_reason().unwrap(), "{path}");
            assert!(body["detail"].is_string(), "{path}");
        }
    }

    #[test]
    fn it_listens_on_a_real_port_and_stops() {
        let server = Server::start(([127, 0, 0, 1], 0).into()).unwrap();
        let address = server.address();
        assert_ne!(address.port(), 0);
        assert!(std::net::TcpStream::connect(address).is_ok());
        assert!(Server::start(address).is_err());
        rt::System::new().block_on(server.stop());
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
