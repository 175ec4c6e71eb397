//! The instances of a run: a constant number, some of which are replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::process::{Door, Instance};

/// How many instances work.
pub(super) const SIZE: usize = 3;
/// A lease that is short enough to wait for and long enough for a loaded machine.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// Jobs that one instance may have started and not written, at most.
pub(super) const UNSETTLED: usize = 200;

/// From a start, with everything there, until all works.
const READY: Duration = Duration::from_secs(120);
/// What draining may take, while a server may be unavailable: its own limit and what it waits for.
const END: Duration = Duration::from_secs(60);

/// What no instance may ever say.
const NEVER_SAID: [&str; 2] = ["panicked", "in the table and not in memory"];

/// The instances. They end with this value, and what they said stays in the run's folder.
#[derive(Debug)]
pub(super) struct Crew {
    config: String,
    logs: PathBuf,
    members: Vec<Member>,
    doors: Doors,
    started: usize,
    complaints: Vec<String>,
}

/// Where the present members can be asked; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Doors(Arc<Mutex<Vec<(usize, Door)>>>);

impl Doors {
    /// The address of a path at one of them by chance, if that listens.
    pub(super) fn any(&self, rng: &mut fastrand::Rng, path: &str) -> Option<String> {
        let doors = self.0.lock().expect("whole doors");
        rng.choice(&*doors)?.1.url(path)
    }
}

#[derive(Debug)]
struct Member {
    number: usize,
    instance: Instance,
}

impl Crew {
    /// Starts all and waits until they are ready.
    pub(super) async fn start(config: &str, logs: &Path) -> Self {
        let (config, logs) = (config.to_owned(), logs.to_owned());
        let mut crew = Self {
            config,
            logs,
            members: Vec::new(),
            doors: Doors::default(),
            started: 0,
            complaints: Vec::new(),
        };
        for _ in 0..SIZE {
            crew.join();
        }
        crew.ready().await;
        crew
    }

    /// Waits until all are ready.
    pub(super) async fn ready(&mut self) {
        for member in &mut self.members {
            member.instance.ready(READY).await;
        }
    }

    /// Starts one more, without waiting for it.
    pub(super) fn join(&mut self) -> usize {
        self.started += 1;
        let number = self.started;
        let table = format!("[instance]\n id = \"chaos-{number}\"");
        let instance = Instance::spawn(&self.config.replace("[instance]", &table));
        self.doors.0.lock().expect("whole doors").push((number, instance.door()));
        self.members.push(Member { number, instance });
        number
    }

    pub(super) fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// The number of one of them by chance.
    pub(super) fn any(&self, rng: &mut fastrand::Rng) -> usize {
        self.members[rng.usize(0..self.members.len())].number
    }

    pub(super) fn instance(&self, number: usize) -> &Instance {
        let mut members = self.members.iter();
        &members.find(|member| member.number == number).expect("a member").instance
    }

    /// Kills one.
    pub(super) fn kill(&mut self, number: usize) {
        let mut member = self.remove(number);
        member.instance.kill();
        self.take_leave(&member);
    }

    fn remove(&mut self, number: usize) -> Member {
        self.doors.0.lock().expect("whole doors").retain(|(door, _)| *door != number);
        let place = self.members.iter().position(|member| member.number == number);
        self.members.remove(place.expect("a member"))
    }

    /// Asks one to end, and lets it go when it has.
    pub(super) async fn end(&mut self, number: usize) {
        let mut member = self.remove(number);
        member.instance.ask_to_end();
        let started = tokio::time::Instant::now();
        let ended = tokio::time::timeout(END, member.instance.exited(END * 2)).await;
        self.take_leave(&member);
        match ended {
            Ok(status) if status.success() => {}
            Ok(status) => self.complain(format!("instance {number} drained, and: {status}")),
            Err(_) => {
                let took = started.elapsed();
                self.complain(format!("instance {number} was to end and did not in {took:?}"));
            }
        }
    }

    /// Asks all to end; returns what went wrong.
    pub(super) async fn leave(mut self) -> Vec<String> {
        self.check();
        while let Some(member) = self.members.first() {
            self.end(member.number).await;
        }
        std::mem::take(&mut self.complaints)
    }

    /// Nobody may have ended by himself.
    ///
    /// # Panics
    /// If one exists.
    pub(super) fn check(&mut self) {
        for Member { number, instance } in &mut self.members {
            if let Some(status) = instance.exit_status() {
                panic!("instance {number} ended by itself: {status}");
            }
        }
    }

    fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    /// Reads what it has said.
    fn take_leave(&mut self, member: &Member) {
        let said = member.keep_logs(&self.logs);
        let bad = said.lines().filter(|line| NEVER_SAID.iter().any(|never| line.contains(never)));
        let bad: Vec<String> =
            bad.map(|line| format!("instance {} said: {line}", member.number)).collect();
        self.complaints.extend(bad);
    }
}

impl Member {
    fn keep_logs(&self, logs: &Path) -> String {
        let (said, stdout) = (self.instance.stderr(), self.instance.stdout());
        let all = format!("{stdout}{said}");
        fs::write(logs.join(format!("instance-{}.log", self.number)), &all).expect("a log");
        all
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &self.members {
            member.keep_logs(&self.logs);
        }
    }
}
