//! How a command can end other than well, and what leaves through stdout.

use impasto::{Error, ErrorKind};
use std::{
    io::{self, Write},
    process::ExitCode,
};

pub(super) type Outcome<T = ()> = Result<T, Failure>;

#[derive(Debug)]
pub(super) enum Failure {
    /// It did not work: exit code 1, or 130 if that was asked for.
    Error(Error),
    /// Arguments that parse but cannot go together: exit code 2.
    Usage(String),
    /// Exit code 1; stderr has the reason already.
    Told,
    /// Whoever read stdout has seen enough: not a failure of ours.
    StdoutClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// Says on stderr what happened and gives the exit code.
    pub(super) fn tell(self, usage: impl FnOnce(&str)) -> ExitCode {
        match self {
            Self::StdoutClosed => ExitCode::SUCCESS,
            Self::Told => ExitCode::from(1),
            Self::Usage(message) => {
                usage(&message);
                ExitCode::from(2)
            }
            Self::Error(e) if e.kind() == ErrorKind::Cancelled => {
                super::signal::tell();
                ExitCode::from(130)
            }
            Self::Error(e) => {
                complain(&e.to_string());
                ExitCode::from(1)
            }
        }
    }
}

/// One line on stderr. If that is closed there is nobody to tell.
pub(super) fn complain(message: &str) {
    say("error", message);
}

/// One line on stderr of what is no error.
pub(super) fn note(message: &str) {
    say("note", message);
}

fn say(what: &str, message: &str) {
    let message = message.replace(['\n', '\r'], " ");
    let _ = writeln!(io::stderr().lock(), "{what}: {message}");
}

/// One line on stdout.
pub(super) fn print_line(text: &str) -> Outcome {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::StdoutClosed),
        Err(e) => Err(Error::with_source(ErrorKind::Io, "cannot write to stdout", e).into()),
    }
}

/// One JSON object on one line of stdout.
pub(super) fn print_json(value: &impl serde::Serialize) -> Outcome {
    match serde_json::to_string(value) {
        Ok(text) => print_line(&text),
        Err(e) => Err(Error::with_source(ErrorKind::Internal, "cannot write JSON", e).into()),
    }
}
