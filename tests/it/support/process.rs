//! The real binary as a child process: started, watched, suspended, killed.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::services::temporary_folder;
use super::{wait_for, wait_until};

/// A debug build on a loaded machine, its migrations and its first group join included.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// One `infinite-scheduler serve`. Dropping it kills it, and prints its output if the test fails.
#[derive(Debug)]
pub(crate) struct Instance {
    child: Child,
    folder: TempDir,
}

impl Instance {
    /// Starts an instance with the TOML text `config` and waits until it is ready.
    pub(crate) async fn start(config: &str) -> Self {
        let mut instance = Self::spawn(config);
        instance.ready(START_DEADLINE).await;
        instance
    }

    /// Starts an instance without waiting. Unless `config` has a table `[http]`, it listens on a free
    /// port of 127.0.0.1.
    pub(crate) fn spawn(config: &str) -> Self {
        Self::spawn_with(config, &[])
    }

    /// The same with further variables in its environment.
    pub(crate) fn spawn_with(config: &str, variables: &[(&str, &str)]) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
        Self::spawn_by(command, config, variables)
    }

    /// The same for a process that ignores SIGXFSZ: a write beyond its file size limit fails, as
    /// on a full disk.
    pub(crate) fn spawn_without_file_size_signal(config: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
        shell.arg(env!("CARGO_BIN_EXE_infinite-scheduler"));
        Self::spawn_by(shell, config, &[])
    }

    fn spawn_by(mut command: Command, config: &str, variables: &[(&str, &str)]) -> Self {
        let folder = temporary_folder();
        let mut config = config.to_owned();
        if !config.contains("[http]") {
            config.push_str("\n[http]\nlisten = \"127.0.0.1:0\"\n");
        }
        let file = folder.path().join("infinite-scheduler.toml");
        fs::write(&file, config).expect("a configuration file");
        let output = |name: &str| File::create(folder.path().join(name)).expect("an output file");
        let child = command
            .arg("serve")
            .arg("--config")
            .arg(file)
            .current_dir(folder.path())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .expect("the binary starts");
        Self { child, folder }
    }

    /// Waits for the line `ready`.
    ///
    /// # Panics
    /// If the process ends before that, or at the deadline.
    pub(crate) async fn ready(&mut self, deadline: Duration) {
        wait_until(deadline, "the instance's line `ready`", async || {
            if let Some(status) = self.exit_status() {
                panic!("the instance ended before it was ready: {status}");
            }
            self.stdout().lines().any(|line| line.trim() == "ready")
        })
        .await;
    }

    /// The port that it listens on.
    ///
    /// # Panics
    /// If it has not logged it yet; it has when it is ready.
    pub(crate) fn http_port(&self) -> u16 {
        self.door().port().expect("a line `listening on http://127.0.0.1:PORT`")
    }

    /// Where it can be asked, for those who do not own it.
    pub(crate) fn door(&self) -> Door {
        Door { stdout: self.folder.path().join("stdout") }
    }

    /// The address of a path of its API, such as `/health/ready`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http_port())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has had at once, in MiB (`VmHWM`).
    pub(crate) fn peak_memory_mb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kib = line.trim().strip_suffix(" kB").expect("a number of kB");
        kib.parse::<u64>().expect("a number") / 1024
    }

    /// Its exit status, if it has ended.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Kills it, as a crash does (SIGKILL), and waits until it has ended.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("a killed child ends");
    }

    /// Suspends it (SIGSTOP).
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes it after [`Instance::stop`] (SIGCONT).
    pub(crate) fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to drain (SIGTERM), without waiting.
    pub(crate) fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to drain (SIGTERM) and returns its exit status.
    pub(crate) async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.ask_to_end();
        self.exited(deadline).await
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn exited(&mut self, deadline: Duration) -> ExitStatus {
        wait_for(deadline, "the instance's end", async || self.exit_status()).await
    }

    pub(crate) fn stdout(&self) -> String {
        self.read("stdout")
    }

    pub(crate) fn stderr(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        let file: PathBuf = self.folder.path().join(name);
        String::from_utf8_lossy(&fs::read(file).expect("an output file")).into_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal to a child");
    }
}

/// Where an instance can be asked, while it exists.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    stdout: PathBuf,
}

impl Door {
    /// The address of a path of its API; `None` before it listens and after its end.
    pub(crate) fn url(&self, path: &str) -> Option<String> {
        Some(format!("http://127.0.0.1:{}{path}", self.port()?))
    }

    fn port(&self) -> Option<u16> {
        let stdout = fs::read_to_string(&self.stdout).ok()?;
        let line =
            |line: &str| line.trim().strip_prefix("listening on http://127.0.0.1:")?.parse().ok();
        stdout.lines().find_map(line)
    }
}

/// Shortens what a failed test prints.
fn end_of(text: &str) -> &str {
    const SHOWN: usize = 100_000;
    &text[text.ceil_char_boundary(text.len().saturating_sub(SHOWN))..]
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!(
                "---- instance {}, stdout\n{}---- stderr\n{}----",
                self.pid(),
                self.stdout(),
                end_of(&self.stderr())
            );
        }
    }
}

mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);
    const CONFIG: &str = "[apps.one]\n";

    #[tokio::test(flavor = "multi_thread")]
    async fn an_instance_becomes_ready_and_ends_when_asked() {
        let mut instance = Instance::start(CONFIG).await;
        assert!(instance.url("/x").ends_with(&format!(":{}/x", instance.http_port())));
        assert!(instance.terminate(DEADLINE).await.success());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_suspended_instance_answers_no_signal_but_kill() {
        let mut instance = Instance::start(CONFIG).await;
        instance.stop();
        instance.ask_to_end();
        assert_eq!(instance.exit_status(), None);
        instance.cont();
        assert!(instance.exited(DEADLINE).await.success());

        let mut instance = Instance::start(CONFIG).await;
        instance.stop();
        instance.kill();
        assert!(instance.exit_status().is_some_and(|status| !status.success()));
    }

    #[tokio::test(flavor = "multi_thread")]
    #[should_panic(expected = "ended before it was ready")]
    async fn a_start_that_fails_is_not_waited_for() {
        Instance::spawn("[bad").ready(DEADLINE).await;
    }
}
