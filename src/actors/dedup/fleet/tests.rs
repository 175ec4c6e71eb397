use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What a loaded machine may take.
const DEADLINE: Duration = Duration::from_secs(30);
const WINDOW: Duration = Duration::from_secs(60);

/// A Redis that knows every key, and can fall silent.
#[derive(Default)]
struct Server {
    silent: AtomicBool,
    heard: Mutex<String>,
}

impl Server {
    async fn start() -> (Arc<Self>, Fleet) {
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
        (server, Fleet::start(&url.into(), WINDOW).unwrap())
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream) {
        let mut bytes = vec![0; 65_536];
        while let Ok(count @ 1..) = client.read(&mut bytes).await {
            let said = String::from_utf8_lossy(&bytes[..count]).into_owned();
            // Nothing but the beginning of a command has a star.
            let answer =
                |command: &str| if command.contains("EXISTS") { ":1\r\n" } else { "+OK\r\n" };
            let answers: String = said.split('*').skip(1).map(answer).collect();
            self.heard.lock().unwrap().push_str(&said);
            if !self.silent.load(Ordering::SeqCst) {
                client.write_all(answers.as_bytes()).await.ok();
            }
        }
    }

    fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    fn heard(&self, what: &str) -> usize {
        self.heard.lock().unwrap().matches(what).count()
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
async fn keys_are_asked_for_in_one_question_and_noted_with_an_end() {
    let (server, fleet) = Server::start().await;
    let all = keys(3);
    let deadline = Instant::now() + DEADLINE;
    // A loaded machine may be slower than its max_wait.
    while fleet.count_known(all.clone()).await != 1 {
        assert!(Instant::now() < deadline, "{}", fleet.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let name = format!("is1:{}", all[2].into_bytes().map(|byte| format!("{byte:02x}")).concat());
    let question = format!("*4\r\n$6\r\nEXISTS\r\n$36\r\n{}\r\n", name_of(&all[0]));
    assert!(server.heard(&question) > 0);
    assert_eq!(server.heard(&question), server.heard(&name), "all of them in one question");
    fleet.note(&all);
    let note = format!("SET\r\n$36\r\n{name}\r\n$1\r\n1\r\n$2\r\nEX\r\n$2\r\n60\r\n");
    until("a note", || server.heard(&note) == 1).await;
    assert_eq!((fleet.recognised(), fleet.dropped(), fleet.status()), (1, 0, "connected".into()));
    assert!(!format!("{fleet:?}").contains("hush"), "{fleet:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_falls_silent_costs_one_short_wait() {
    let (server, fleet) = Server::start().await;
    until("a connection", || fleet.link.is_connected()).await;
    server.fall_silent();
    let key = keys(1);
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(fleet.count_known(key.clone()).await, 0);
    }
    assert!(began.elapsed() < ASK_MAX_WAIT * 500, "{:?}", began.elapsed());
    assert_eq!(server.heard(&name_of(&key[0])), 1, "it was asked again");
    assert!(fleet.status().starts_with("unavailable: no answer within "), "{}", fleet.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_never_answers_is_never_there() {
    let (server, fleet) = Server::start().await;
    server.fall_silent();
    until("the first failure", || fleet.status().starts_with("unavailable: ")).await;
    assert_eq!(fleet.count_known(keys(1)).await, 0);
    fleet.note(&keys(5));
    assert_eq!(fleet.dropped(), 5);
    assert_eq!(server.heard("SET\r\n"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_bounded_and_one_write_is_under_way_at_a_time() {
    let (server, fleet) = Server::start().await;
    until("a connection", || fleet.link.is_connected()).await;
    server.fall_silent();
    let some = keys(2 * WRITTEN);
    for _ in 0..GATHERED / WRITTEN {
        fleet.note(&some);
        assert!(fleet.writer.gathered().keys.len() <= GATHERED);
    }
    let noted = (GATHERED / WRITTEN * some.len()) as u64;
    assert!(fleet.dropped() >= noted - (GATHERED + WRITTEN) as u64, "{}", fleet.dropped());
    until("the end of the first write", || fleet.dropped() == noted).await;
    assert!(server.heard("SET\r\n") <= WRITTEN, "{} at once", server.heard("SET\r\n"));
    assert!(!fleet.writer.gathered().writing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_there_is_no_wait() {
    let fleet = Fleet::start(&"redis://:hush@127.0.0.1:1".into(), WINDOW).unwrap();
    until("a refusal", || fleet.status().starts_with("unavailable: ")).await;
    assert!(!fleet.status().contains("hush"), "{}", fleet.status());
    assert_eq!(fleet.count_known(keys(1)).await, 0);
}
