//! The wall clock of a process under test, which can be set while it runs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::services::temporary_folder;

/// A clock that goes with the machine's until it is set.
#[derive(Debug)]
pub(crate) struct SetClock {
    folder: TempDir,
    shift: File,
}

impl SetClock {
    pub(crate) fn new() -> Self {
        let folder = temporary_folder();
        let shift = File::options().create_new(true).write(true).open(folder.path().join("shift"));
        let clock = Self { shift: shift.expect("a file"), folder };
        clock.write(0);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/clock/set_clock.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(clock.library())
            .args([source, "-ldl", "-lpthread"])
            .status();
        assert!(compiled.expect("a C compiler, as the build needs it").success());
        clock
    }

    /// What the process must find in its environment.
    pub(crate) fn variables(&self) -> [(&'static str, String); 2] {
        let text = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        let shift = text(self.folder.path().join("shift"));
        [("LD_PRELOAD", text(self.library())), ("TEST_CLOCK_FILE", shift)]
    }

    /// Sets it back, measured from the machine's.
    pub(crate) fn set_back(&self, by: Duration) {
        self.write(-i64::try_from(by.as_nanos()).expect("a moment"));
    }

    /// Sets it forward, measured from the machine's.
    pub(crate) fn set_forward(&self, by: Duration) {
        self.write(i64::try_from(by.as_nanos()).expect("a moment"));
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("set_clock.so")
    }

    fn write(&self, shift_ns: i64) {
        self.shift.write_all_at(&shift_ns.to_ne_bytes(), 0).expect("a file that can be written");
    }
}
