//! Ctrl-C (and SIGTERM, SIGHUP): asks the work to stop, and stops it if it does not.

use super::failure::{complain, note};
use impasto::{ErrorKind, Result, error::IntoError, graph::Control, image::output};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Whether the user wants it to end. The GPU's work looks at it between submits.
pub(super) static CANCEL: AtomicBool = AtomicBool::new(false);

/// How long the work may take to unwind. A submit takes 100 to 200 ms; all that is lost by not waiting longer is order.
const GRACE: Duration = Duration::from_millis(300);

/// Whether the work ends by itself, in good order, when it sees [`CANCEL`]; only a second Ctrl-C stops it then.
pub(super) static PATIENT: AtomicBool = AtomicBool::new(false);

pub(super) fn install() -> Result<()> {
    let handler = || {
        if PATIENT.load(Ordering::SeqCst) && !CANCEL.swap(true, Ordering::SeqCst) {
            return note("the present frame is finished first; Ctrl-C once more ends at once");
        }
        let again = CANCEL.swap(true, Ordering::SeqCst);
        let wait = || {
            std::thread::sleep(GRACE);
            stop();
        };
        if again || std::thread::Builder::new().name("interrupt".into()).spawn(wait).is_err() {
            stop();
        }
    };
    ctrlc::set_handler(handler).error(ErrorKind::Internal, || "cannot listen for Ctrl-C")
}

/// # Errors
/// `Cancelled` once Ctrl-C was pressed.
pub(super) fn check() -> Result<()> {
    Control { cancel: Some(&CANCEL), progress: None }.check()
}

/// Ends the process without unwinding: it is compiling a shader, waiting for a disk, or in a driver.
fn stop() -> ! {
    output::remove_temporaries();
    tell();
    exit(130)
}

/// Says once what happened: the work may end in the moment that [`stop`] ends it.
pub(super) fn tell() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::SeqCst) {
        complain("interrupted");
    }
}

/// `_exit`, not `exit`: a driver's own exit handlers may crash or wait while its threads are at work.
#[cfg(unix)]
fn exit(code: i32) -> ! {
    unsafe extern "C" {
        fn _exit(code: i32) -> !;
    }
    // SAFETY: POSIX; it may be called from any thread at any time.
    unsafe { _exit(code) }
}

#[cfg(not(unix))]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}
