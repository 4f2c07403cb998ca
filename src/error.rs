//! One opaque [`Error`] with a [`kind`](Error::kind) and a cause chain.
//!
//! The message says what failed, where (scope path, file, tensor name) and what to do about it; the kind is
//! what a program may branch on. There are no finer types: they do not compose across layers.

use std::{error::Error as StdError, fmt};

/// `Result` with impasto's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a program may want to branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument that cannot be meant: a click outside the picture, an image side the stride does not allow.
    Argument,
    /// A picture, mask or other input that cannot be read.
    Input,
    /// A weight file that is damaged, hostile, incomplete or of another model.
    Weights,
    /// Shapes that do not fit together: a bug in a model definition or a checkpoint of another size.
    Shape,
    /// No adapter, a missing feature or limit, a shader that does not compile.
    Gpu,
    /// The device has not enough memory for the plan, or a limit forbids a buffer.
    OutOfMemory,
    /// The device was lost; rebuild the session.
    DeviceLost,
    /// Reading or writing files.
    Io,
    /// The network or the Hub could not be reached.
    Network,
    /// The thing asked for does not exist: a file, a model id, a revision.
    NotFound,
    /// The Hub wants a token, or a licence accepted, for this model.
    Gated,
    /// The caller cancelled.
    Cancelled,
    /// A result holds NaN or infinity.
    Numeric,
    /// A broken promise inside impasto: please report it.
    Internal,
}

/// An error with a kind, a message and a cause chain. `Display` prints the whole chain, outermost first.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

impl Error {
    /// An error of `kind` that says `message`.
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// An error of `kind` that says `message` and was caused by `source`.
    #[cold]
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync + 'static>>,
    ) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: Some(source.into()) }))
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The same error, told from one level further out: `message` comes first, the kind stays.
    #[cold]
    pub fn context(self, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind: self.kind(), message: message.into(), source: Some(Box::new(self)) }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

// `Display` prints the chain itself, so `source` stays empty: a reporter that walks it would print it twice.
impl StdError for Error {}

/// Adds what was being done to an error on its way out.
pub trait Context<T> {
    /// Wraps the error with a message made only when there is one.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| e.context(message()))
    }
}

/// Gives a foreign error a kind and a message.
pub trait IntoError<T> {
    /// Turns the error into an [`Error`] of `kind`, with a message made only when there is one.
    fn error<M: Into<String>>(self, kind: ErrorKind, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync + 'static>>> IntoError<T> for std::result::Result<T, E> {
    fn error<M: Into<String>>(self, kind: ErrorKind, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| Error::with_source(kind, message(), e))
    }
}

/// `bail!(Kind, "format {}", args)`: return an [`Error`] of that [`ErrorKind`].
macro_rules! bail {
    ($kind:ident, $($arg:tt)*) => {
        return Err($crate::error::Error::new($crate::error::ErrorKind::$kind, format!($($arg)*)))
    };
}
/// `ensure!(condition, Kind, "format {}", args)`: [`bail!`] unless the condition holds.
macro_rules! ensure {
    ($cond:expr, $kind:ident, $($arg:tt)*) => {
        if !$cond {
            $crate::error::bail!($kind, $($arg)*);
        }
    };
}
pub(crate) use {bail, ensure};
