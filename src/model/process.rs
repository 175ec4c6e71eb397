//! The identity of an instance's process. By it a new instance on the same machine sees that its
//! predecessor has ended, and need not wait for its lease.

use serde::{Deserialize, Serialize};

/// One process, distinguished from every other process of any machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    /// The kernel's boot id, new at each boot of a machine.
    pub boot_id: String,
    /// The inode of the PID namespace: each container has its own namespace, with a process 1.
    pub pid_namespace: u64,
    /// The process id within that namespace.
    pub pid: i32,
    /// When the process started, in clock ticks since the boot: process ids are reused.
    pub start_ticks: u64,
}

impl ProcessIdentity {
    /// Whether process ids of the other have the same meaning here.
    pub fn shares_processes_with(&self, other: &Self) -> bool {
        self.boot_id == other.boot_id && self.pid_namespace == other.pid_namespace
    }
}

/// The contents of `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// It has ended, and its parent has not collected its exit status yet.
    pub has_ended: bool,
    /// When it started, in clock ticks since the boot.
    pub start_ticks: u64,
}

impl ProcessStat {
    /// Reads the text of `/proc/PID/stat`; `None` if it is not of that form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, and may contain anything.
        let (_, after_name) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let state = field(3)?;
        let threads: i64 = field(20)?.parse().ok()?;
        // The first thread may have ended while others run.
        let has_ended = matches!(state, "Z" | "X" | "x") && threads <= 1;
        Some(Self { has_ended, start_ticks: field(22)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let rest = "1 9 9 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 {threads} 0 123456 1 1 1";
        for (name, state, threads, has_ended) in [
            ("infinite-schedu", "S", 5, false),
            (") R 1 (", "R", 1, false),
            ("a b", "Z", 1, true),
            ("z", "Z", 3, false),
            ("x", "X", 0, true),
        ] {
            let rest = rest.replace("{threads}", &threads.to_string());
            let stat = ProcessStat::parse(&format!("77 ({name}) {state} {rest}\n"));
            assert_eq!(stat, Some(ProcessStat { has_ended, start_ticks: 123_456 }), "{name}");
        }
        for text in ["", "77 (name", "77 (name) S 1", "77 (name) S 1 9 9 0 -1 x"] {
            assert_eq!(ProcessStat::parse(text), None, "{text}");
        }
    }

    #[test]
    fn process_ids_mean_the_same_in_one_namespace_of_one_boot_only() {
        let one = ProcessIdentity { boot_id: "b".into(), pid_namespace: 1, pid: 7, start_ticks: 5 };
        let other = ProcessIdentity { pid: 8, start_ticks: 9, ..one.clone() };
        assert!(one.shares_processes_with(&other));
        let rebooted = ProcessIdentity { boot_id: "c".into(), ..other.clone() };
        let contained = ProcessIdentity { pid_namespace: 2, ..other };
        assert!(!one.shares_processes_with(&rebooted));
        assert!(!one.shares_processes_with(&contained));
    }
}
