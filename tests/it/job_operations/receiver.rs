//! The receiver of the tests: it notes every attempt, and holds or fails those that a test names.

use super::*;

/// One attempt as the receiver saw it.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) request_id: String,
    pub(super) at_ms: i64,
    pub(super) data: Value,
}

/// The receiver: it notes every request, holds those whose name begins with `held` until it is
/// let go, and answers by `fails` in the name.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    pub(super) received: Arc<Mutex<Vec<Received>>>,
    pub(super) go: Arc<Semaphore>,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self { received: Arc::default(), go: Arc::new(Semaphore::new(0)) }
    }

    pub(super) async fn receive(self, context: JobContext, data: Value) -> Result<(), JobError> {
        let request_id = context.job().request_id.clone();
        let at_ms = now().timestamp_millis();
        let received = Received { request_id: request_id.clone(), at_ms, data };
        self.received.lock().expect("a lock").push(received);
        if request_id.contains("held") {
            tokio::select! {
                permit = self.go.acquire() => permit.expect("open").forget(),
                () = context.cancelled().cancelled() => {}
            }
        }
        // Some are met while they run.
        if request_id.ends_with('7') {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if request_id.contains("fails") { Err(JobError::retry("503")) } else { Ok(()) }
    }

    pub(super) fn of(&self, request_id: &str) -> Vec<Received> {
        let all = self.received.lock().expect("a lock");
        all.iter().filter(|one| one.request_id == request_id).cloned().collect()
    }

    pub(super) async fn await_one(&self, request_id: &str) {
        wait_until(DEADLINE, "the receiver to be called", async || !self.of(request_id).is_empty())
            .await;
    }
}
