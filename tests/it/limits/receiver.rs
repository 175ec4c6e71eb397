//! A receiver of HTTP requests that notes when each call begins and ends.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::DEADLINE;
use crate::support::wait_until;

/// One call: of which job, when it began, and when it was answered.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The job's id.
    pub(super) job: String,
    pub(super) began: Instant,
    pub(super) ended: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Receiver {
    port: u16,
    calls: Arc<Mutex<Vec<Call>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// A receiver that answers each call with success after `takes`.
    pub(super) async fn start(takes: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let all = calls.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(serve(stream, all.clone(), takes));
            }
        });
        Self { port, calls, task }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("a lock").clone()
    }

    pub(super) fn count(&self) -> usize {
        self.calls.lock().expect("a lock").len()
    }

    /// Waits for so many calls more.
    pub(super) async fn await_more(&self, count: usize) {
        let before = self.count();
        wait_until(DEADLINE, "further calls", async || self.count() >= before + count).await;
    }
}

async fn serve(mut stream: TcpStream, all: Arc<Mutex<Vec<Call>>>, takes: Duration) {
    let mut bytes = Vec::new();
    while let Some(job) = hear(&mut stream, &mut bytes).await {
        let place = {
            let mut all = all.lock().expect("a lock");
            all.push(Call { job, began: Instant::now(), ended: None });
            all.len() - 1
        };
        // The receiver's own work, not a wait of the test.
        tokio::time::sleep(takes).await;
        all.lock().expect("a lock")[place].ended = Some(Instant::now());
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// Takes one request off the connection, and tells its job's id; none at its end.
async fn hear(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<String> {
    let (head, start) = loop {
        let text = String::from_utf8_lossy(bytes);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            break (head.to_ascii_lowercase(), head.len() + 4);
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    };
    let header = |name| head.lines().find_map(|line| line.strip_prefix(name));
    let length = header("content-length: ")?;
    let job = header("x-scheduler-job-id: ")?.to_owned();
    let end = start + length.trim().parse::<usize>().ok()?;
    while bytes.len() < end {
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
    bytes.drain(..end);
    Some(job)
}
