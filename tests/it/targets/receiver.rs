//! A receiver of HTTP requests that answers byte for byte as a test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::DEADLINE;
use crate::support::wait_for;

const DRIP: Duration = Duration::from_millis(200);

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// Method, path and version.
    pub(super) line: String,
    /// By lower-case name.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
    pub(super) at: Instant,
    /// Whether the connection had carried another one.
    pub(super) is_reused: bool,
}

/// What follows the answer on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Close,
    /// The next request.
    Keep,
    /// Zeros without end.
    Zeros,
    /// A letter each fifth of a second, without end.
    Drip,
}

/// Dropping it leaves the port to nobody.
#[derive(Debug)]
pub(super) struct Receiver {
    port: u16,
    heard: Arc<Mutex<Vec<Heard>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Gives an answer to a request, and how many came before it.
type Answer = dyn Fn(&Heard, usize) -> (String, Then) + Send + Sync;

impl Receiver {
    /// Gives the n-th request the n-th answer, and every later one the last.
    pub(super) async fn answering(answers: &'static [(&'static str, Then)]) -> Self {
        Self::at(0, answers).await
    }

    /// The same on this port.
    pub(super) async fn at(port: u16, answers: &'static [(&'static str, Then)]) -> Self {
        let nth = |_: &Heard, before: usize| {
            let (answer, then) = answers[before.min(answers.len() - 1)];
            (answer.to_owned(), then)
        };
        Self::start(port, Arc::new(nth)).await
    }

    /// Answers as `decide` says.
    pub(super) async fn deciding(
        decide: impl Fn(&Heard, usize) -> (String, Then) + Send + Sync + 'static,
    ) -> Self {
        Self::start(0, Arc::new(decide)).await
    }

    async fn start(port: u16, answer: Arc<Answer>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = heard.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(serve(stream, all.clone(), answer.clone()));
            }
        });
        Self { port, heard, task }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/jobs?token=hush", self.port)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("a lock").clone()
    }

    /// Waits for so many requests.
    pub(super) async fn requests(&self, count: usize) -> Vec<Heard> {
        wait_for(DEADLINE, "requests", async || {
            let heard = self.heard();
            (heard.len() >= count).then_some(heard)
        })
        .await
    }
}

async fn serve(mut stream: TcpStream, all: Arc<Mutex<Vec<Heard>>>, answer: Arc<Answer>) {
    let mut is_reused = false;
    while let Some(heard) = hear(&mut stream, is_reused).await {
        let (answer, then) = {
            let mut all = all.lock().expect("a lock");
            let answer = answer(&heard, all.len());
            all.push(heard);
            answer
        };
        let mut written = stream.write_all(answer.as_bytes()).await;
        while then == Then::Zeros && written.is_ok() {
            written = stream.write_all(&[b'0'; 64 * 1024]).await;
        }
        while then == Then::Drip && written.is_ok() {
            tokio::time::sleep(DRIP).await;
            written = stream.write_all(b"x").await;
        }
        if then != Then::Keep || written.is_err() {
            return;
        }
        is_reused = true;
    }
}

async fn hear(stream: &mut TcpStream, is_reused: bool) -> Option<Heard> {
    let mut bytes = Vec::new();
    let (head, start) = loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            break (head.to_owned(), head.len() + 4);
        }
    };
    let mut lines = head.lines();
    let line = lines.next()?.to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length")?.parse().ok()?;
    while bytes.len() < start + length {
        stream.read_buf(&mut bytes).await.ok()?;
    }
    let body = String::from_utf8(bytes[start..].to_vec()).ok()?;
    Some(Heard { line, headers, body, at: Instant::now(), is_reused })
}
