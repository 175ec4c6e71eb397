use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// The longest wait, on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(30);
const WINDOW: Duration = Duration::from_secs(60);

/// A Redis that has one of the keys of every query, and that can stop answering.
#[derive(Default)]
struct Server {
    stopped: AtomicBool,
    received: Mutex<String>,
}

impl Server {
    async fn start() -> (Arc<Self>, SharedCache) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Arc::<Self>::default();
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(client));
            }
        });
        let url = format!("redis://:hush@127.0.0.1:{port}");
        (server, SharedCache::start(&url.into(), WINDOW).unwrap())
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream) {
        let mut bytes = vec![0; 65_536];
        while let Ok(count @ 1..) = client.read(&mut bytes).await {
            let request = String::from_utf8_lossy(&bytes[..count]).into_owned();
            // In the protocol of Redis, a star begins each command; our arguments have none.
            let answer =
                |command: &str| if command.contains("EXISTS") { ":1\r\n" } else { "+OK\r\n" };
            let answers: String = request.split('*').skip(1).map(answer).collect();
            self.received.lock().unwrap().push_str(&request);
            if !self.stopped.load(Ordering::SeqCst) {
                client.write_all(answers.as_bytes()).await.ok();
            }
        }
    }

    fn stop_answering(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// How many times `what` was received.
    fn received(&self, what: &str) -> usize {
        self.received.lock().unwrap().matches(what).count()
    }
}

fn keys(count: usize) -> Vec<KeyId> {
    (0..count).map(|n| KeyId::derive("app", &n.to_string())).collect()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_queried_by_one_command_and_written_with_an_expiry() {
    let (server, cache) = Server::start().await;
    let all = keys(3);
    let deadline = Instant::now() + DEADLINE;
    // A loaded machine may not answer within `QUERY_MAX_WAIT`.
    while cache.count_known(all.clone()).await != 1 {
        assert!(Instant::now() < deadline, "{}", cache.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let name = format!("is1:{}", all[2].into_bytes().map(|byte| format!("{byte:02x}")).concat());
    let query = format!("*4\r\n$6\r\nEXISTS\r\n$36\r\n{}\r\n", name_of(&all[0]));
    assert!(server.received(&query) > 0);
    assert_eq!(server.received(&query), server.received(&name), "all of them in one command");
    cache.write_later(&all);
    let write = format!("SET\r\n$36\r\n{name}\r\n$1\r\n1\r\n$2\r\nEX\r\n$2\r\n60\r\n");
    until("a write", || server.received(&write) == 1).await;
    assert_eq!((cache.found(), cache.dropped(), cache.status()), (1, 0, "connected".into()));
    assert!(!format!("{cache:?}").contains("hush"), "{cache:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stops_answering_costs_one_short_wait() {
    let (server, cache) = Server::start().await;
    until("a connection", || cache.client.is_connected()).await;
    server.stop_answering();
    let key = keys(1);
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(cache.count_known(key.clone()).await, 0);
    }
    assert!(began.elapsed() < QUERY_MAX_WAIT * 500, "{:?}", began.elapsed());
    assert_eq!(server.received(&name_of(&key[0])), 1, "it was asked again");
    assert!(cache.status().starts_with("unavailable: no answer within "), "{}", cache.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_never_answers_is_not_connected() {
    let (server, cache) = Server::start().await;
    server.stop_answering();
    until("the first failure", || cache.status().starts_with("unavailable: ")).await;
    assert_eq!(cache.count_known(keys(1)).await, 0);
    cache.write_later(&keys(5));
    assert_eq!(cache.dropped(), 5);
    assert_eq!(server.received("SET\r\n"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_writes_are_bounded_and_one_is_under_way_at_a_time() {
    let (server, cache) = Server::start().await;
    until("a connection", || cache.client.is_connected()).await;
    server.stop_answering();
    let some = keys(2 * MAX_WRITTEN);
    for _ in 0..MAX_PENDING / MAX_WRITTEN {
        cache.write_later(&some);
        assert!(cache.writer.pending().keys.len() <= MAX_PENDING);
    }
    let all = (MAX_PENDING / MAX_WRITTEN * some.len()) as u64;
    assert!(cache.dropped() >= all - (MAX_PENDING + MAX_WRITTEN) as u64, "{}", cache.dropped());
    until("the end of the first write", || cache.dropped() == all).await;
    assert!(server.received("SET\r\n") <= MAX_WRITTEN, "{} at once", server.received("SET\r\n"));
    assert!(!cache.writer.pending().writing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_connections_costs_no_wait() {
    let cache = SharedCache::start(&"redis://:hush@127.0.0.1:1".into(), WINDOW).unwrap();
    until("a refusal", || cache.status().starts_with("unavailable: ")).await;
    assert!(!cache.status().contains("hush"), "{}", cache.status());
    assert_eq!(cache.count_known(keys(1)).await, 0);
}
