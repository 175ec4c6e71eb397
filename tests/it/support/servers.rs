//! Servers of a test's own, which it may kill and suspend: children of `tests/run services`, which
//! obey on its standard input.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::services::Database;

/// What ending a server and removing its files may take.
const END: Duration = Duration::from_secs(30);

/// One server, which ends with this value.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Its addresses and settings, by the names of variables.
    said: HashMap<String, String>,
    /// Where it has its files.
    folder: TempDir,
    logs: PathBuf,
}

/// A broker and a database server, started at the same time.
pub(crate) fn start(database: Database, logs: &Path) -> (Server, Server) {
    let name = match database {
        Database::MariaDb => "mariadb",
        Database::MySql => "mysql",
        Database::Postgres => "postgres",
        Database::Sqlite => unreachable!("SQLite has no server"),
    };
    thread::scope(|scope| {
        let broker = scope.spawn(|| Server::start("kafka", logs));
        let server = Server::start(name, logs);
        (broker.join().expect("a broker"), server)
    })
}

impl Server {
    /// Starts `kafka`, `kafka-secured`, `mariadb`, `mysql`, `postgres`, `pgbouncer` or `redis`; what it logs is left in the folder `logs`.
    ///
    /// # Panics
    /// If it does not become ready.
    pub(crate) fn start(name: &'static str, logs: &Path) -> Self {
        Self::start_with(name, logs, &[])
    }

    /// The same with further variables in its environment.
    pub(crate) fn start_with(name: &'static str, logs: &Path, variables: &[(&str, &str)]) -> Self {
        // The server's own user has temporary files there, too; durability is part of the test,
        // and the usual place for temporary files may be memory.
        let folder = tempfile::Builder::new()
            .prefix("infinite-scheduler.it.")
            .tempdir_in(std::env::var_os("TMPDIR").unwrap_or("/var/tmp".into()))
            .expect("a folder");
        let everybody = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(folder.path(), everybody).expect("a folder of our own");
        let said = File::create(logs.join(format!("{name}.services"))).expect("a log file");
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/run"))
            .args(["services", name])
            // Shared servers must not be killed.
            .env_remove("INFINITE_SCHEDULER_TEST_KAFKA")
            .env_remove("INFINITE_SCHEDULER_TEST_KAFKA_SECURED")
            .env_remove("INFINITE_SCHEDULER_TEST_MYSQL_URL")
            .env_remove("INFINITE_SCHEDULER_TEST_MYSQL9_URL")
            .env_remove("INFINITE_SCHEDULER_TEST_POSTGRES_URL")
            .env_remove("INFINITE_SCHEDULER_TEST_REDIS")
            .env("TMPDIR", folder.path())
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .expect("tests/run starts");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its standard output"));
        let (said, logs) = (HashMap::new(), logs.to_owned());
        let mut server = Self { name, child, orders, answers, said, folder, logs };
        loop {
            let line = server.answer();
            match line.strip_prefix("export ").and_then(|export| export.split_once('=')) {
                Some((name, value)) => drop(server.said.insert(name.to_owned(), value.to_owned())),
                None if line == "ready" => return server,
                None => {}
            }
        }
    }

    /// The folder below which it has its files.
    pub(crate) fn files(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// `host:port` or a URL, of a server with only that one variable.
    pub(crate) fn address(&self) -> &str {
        assert_eq!(self.said.len(), 1, "{}: {:?}", self.name, self.said.keys());
        self.said.values().next().expect("an address")
    }

    /// All its addresses and settings, by the names of variables.
    pub(crate) fn said(&self) -> &HashMap<String, String> {
        &self.said
    }

    /// Has it killed, started, suspended or resumed, and waits until that is done.
    pub(crate) fn order(&mut self, what: &str) {
        self.obey(&format!("{what} {}", self.name));
    }

    /// Has one of Kafka's tools run, and waits until it is done.
    pub(crate) fn tool(&mut self, words: &str) {
        self.obey(&format!("tool {} {words}", self.name));
    }

    fn obey(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("its standard input");
        orders.write_all(format!("{order}\n").as_bytes()).expect("an order");
        assert_eq!(self.answer(), "ok", "{order}: see its log");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).expect("a line");
        assert!(read > 0, "`tests/run services {}` has ended: see its log", self.name);
        line.trim_end().to_owned()
    }

    /// Its files are deleted with it.
    fn keep_logs(&self) -> std::io::Result<()> {
        for run in fs::read_dir(self.folder.path())? {
            for file in fs::read_dir(run?.path())? {
                let file = file?;
                if file.path().extension().is_some_and(|extension| extension == "log") {
                    fs::copy(file.path(), self.logs.join(file.file_name()))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    /// Best effort: a panic while panicking would leave the rest running.
    fn drop(&mut self) {
        if let Err(error) = self.keep_logs() {
            eprintln!("the logs of {} are not kept: {error}", self.name);
        }
        drop(self.orders.take());
        // It may be executing a command.
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        // The kernel then ends the server itself.
        eprintln!("`tests/run services {}` does not end and is killed", self.name);
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
