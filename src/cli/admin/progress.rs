//! Progress of long work.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

const CLEAR: &str = "\r\u{1b}[K";

/// A line on a terminal's standard error that tells how far long work has come, and is gone when it is done.
pub(super) struct Progress {
    is_terminal: bool,
    is_shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), is_shown: false }
    }

    /// Replaces the line.
    pub(super) fn show(&mut self, line: impl Display) {
        if self.is_terminal {
            self.is_shown = true;
            write(format_args!("{CLEAR}{line}"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            write(CLEAR);
        }
    }
}

fn write(text: impl Display) {
    let mut err = std::io::stderr().lock();
    if write!(err, "{text}").and_then(|()| err.flush()).is_err() {
        tracing::debug!("nobody sees how far it is");
    }
}
