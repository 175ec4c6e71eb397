//! The signals that ask the process to end.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives SIGINT and SIGTERM, so that the first one does not end the process. The second one
/// does, from within the signal's handler: it does not depend on any task or thread of the program.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// One of these signals.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Interrupt,
    Terminate,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for (signal, ask) in [(SIGINT, Ask::Interrupt), (SIGTERM, Ask::Terminate)] {
            // They run in the order in which they are registered.
            let status = i32::from(ask.exit_status());
            flag::register_conditional_shutdown(signal, status, asked.clone())?;
            flag::register(signal, asked.clone())?;
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(super) async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.interrupt.recv() => Ask::Interrupt,
            _ = self.terminate.recv() => Ask::Terminate,
        }
    }
}

impl Ask {
    /// The exit code that shells report for a process which this signal ended.
    pub(super) fn exit_code(self) -> ExitCode {
        self.exit_status().into()
    }

    fn exit_status(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}
