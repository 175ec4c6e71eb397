//! The identity of this process, and whether another process on this machine has ended.
//!
//! Only certain knowledge from the kernel counts: in case of doubt a process is assumed to run, and
//! its lease decides.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::model::process::{ProcessIdentity, ProcessStat};

/// This process; `None` where the kernel does not provide its identity.
pub(super) fn own() -> Option<ProcessIdentity> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let pid_namespace = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    let stat = ProcessStat::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let pid = i32::try_from(std::process::id()).ok()?;
    let boot_id = boot_id.trim().to_owned();
    Some(ProcessIdentity { boot_id, pid_namespace, pid, start_ticks: stat.start_ticks })
}

/// Whether `other` is visible to this process and has ended.
pub(super) fn is_gone(other: &ProcessIdentity, own: &ProcessIdentity) -> bool {
    if !own.shares_processes_with(other) {
        return false;
    }
    let Some(pid) = Pid::from_raw(other.pid) else { return false };
    // Signalled first, since `/proc` may hide the processes of other users.
    if test_kill_process(pid) == Err(Errno::SRCH) {
        return true;
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", other.pid)).ok();
    stat.and_then(|text| ProcessStat::parse(&text))
        .is_some_and(|stat| stat.has_ended || stat.start_ticks != other.start_ticks)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn of(child: &Child) -> ProcessIdentity {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("a stat");
        let stat = ProcessStat::parse(&stat).expect("its form");
        let pid = i32::try_from(child.id()).expect("an id");
        ProcessIdentity { pid, start_ticks: stat.start_ticks, ..own().expect("ours") }
    }

    #[test]
    fn a_process_is_gone_from_its_end_and_not_before() {
        let own = own().expect("ours");
        assert!(!is_gone(&own, &own));
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("a child");
        let seen = of(&child);
        assert!(!is_gone(&seen, &own));
        let earlier = ProcessIdentity { start_ticks: seen.start_ticks - 1, ..seen.clone() };
        assert!(is_gone(&earlier, &own), "its id was used again");
        for elsewhere in [
            ProcessIdentity { pid_namespace: own.pid_namespace + 1, ..earlier.clone() },
            ProcessIdentity { boot_id: "another".into(), ..earlier },
        ] {
            assert!(!is_gone(&elsewhere, &own), "{elsewhere:?} cannot be seen from here");
        }
        // Killed, but still a zombie.
        child.kill().expect("a signal");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_gone(&seen, &own) {
            assert!(Instant::now() < deadline, "a process that has ended is gone");
            std::thread::yield_now();
        }
        child.wait().expect("an end");
        assert!(is_gone(&seen, &own));
    }
}
