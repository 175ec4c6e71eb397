//! Overdue jobs of an app that fires to an HTTP endpoint, beside plain requests to the same server.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse, HttpServer, rt, web};
use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio::sync::oneshot;

use super::super::output::{grouped, report};
use super::report::{Figures, per_second};
use super::scratch::Scratch;
use super::{Common, fire, jobs};
use crate::dispatch::{Dispatch, HttpTarget};
use crate::model::clock::{Clock, SystemClock};

/// How many requests are under way at a time, of each.
const IN_FLIGHT: u32 = 256;

/// Overdue jobs of one app to an HTTP server of this program, requests a second
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  infinite-scheduler bench http --jobs 100000 --database postgres://user@localhost/scratch --drop")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Jobs
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    jobs: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Http {
    jobs: usize,
    requests_per_second: f64,
    /// As many requests of the same size to the same server, by the plain client.
    raw_requests_per_second: f64,
    ratio: f64,
}

pub(super) async fn measure(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<Http> {
    let count = arguments.jobs.max(1);
    let server = Server::start()?;
    let raw_time = plain_requests(&server.url, count).await?;

    let row = jobs::register(scratch).await?;
    report(format_args!("putting {count} overdue jobs into the table"));
    let long_ago_ms = SystemClock.now_ms() - 86_400_000;
    jobs::load(scratch, &row, 0..count, |_| long_ago_ms).await?;
    let mut app = fire::app(false);
    app.max_in_flight = NonZeroU32::new(IN_FLIGHT).unwrap_or(NonZeroU32::MIN);
    let target = Dispatch::Http(HttpTarget::at(server.url.clone()));
    let scheduler = scratch.builder().register_app_on(app, target).start().await?;
    let measured = fire::watch(&scheduler, count).await;
    scheduler.shutdown(Duration::from_secs(10)).await;
    let (counted, time) = measured?;
    let (ours, raw) = (per_second(counted, time), per_second(count, raw_time));
    Ok(Http {
        jobs: count,
        requests_per_second: ours,
        raw_requests_per_second: raw,
        ratio: ours / raw,
    })
}

/// How long that many requests take, each with a body as a fired job has.
async fn plain_requests(url: &str, count: usize) -> anyhow::Result<Duration> {
    let client = reqwest::Client::new();
    let began = Instant::now();
    stream::iter(0..count)
        .map(|number| {
            let request = client.post(url).body(jobs::data(number));
            async move {
                let answer = request.send().await?;
                ensure!(answer.status().is_success(), "the server answered {}", answer.status());
                anyhow::Ok(())
            }
        })
        .buffer_unordered(IN_FLIGHT as usize)
        .try_collect::<()>()
        .await?;
    Ok(began.elapsed())
}

/// Reads every request whole and answers 204, on a thread of its own.
struct Server {
    url: String,
    _stop: oneshot::Sender<()>,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no port is free")?;
        let url = format!("http://{}/", listener.local_addr()?);
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            rt::System::new().block_on(async move {
                let app = || App::new().default_service(web::to(answer));
                let server = HttpServer::new(app).workers(1).disable_signals().listen(listener)?;
                let server = server.run();
                let handle = server.handle();
                drop(rt::spawn(server));
                // It is stopped when the sender is dropped.
                stopped.await.ok();
                handle.stop(false).await;
                std::io::Result::Ok(())
            })
        });
        Ok(Self { url, _stop: stop })
    }
}

/// Takes the body, so that the request has been read whole.
async fn answer(_: web::Bytes) -> HttpResponse {
    HttpResponse::NoContent().finish()
}

impl Figures for Http {
    fn cells(&self) -> Vec<(&'static str, String)> {
        vec![
            ("jobs", grouped(self.jobs as f64)),
            ("requests/s", grouped(self.requests_per_second)),
            ("raw requests/s", grouped(self.raw_requests_per_second)),
            ("of raw", format!("{:.0} %", self.ratio * 100.0)),
        ]
    }

    fn note(&self) -> Option<String> {
        Some(format!("raw: the plain HTTP client, {IN_FLIGHT} requests at a time, no database."))
    }
}
