//! The signals that ask the process to end.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens to SIGINT and SIGTERM instead of dying of the first of them. The second one ends the
/// process whatever it does: the signal's own handler does that, and no task or thread of ours
/// has to get its turn.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// One of them.
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
    /// How a shell sees a process that this signal ended.
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
