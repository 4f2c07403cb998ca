//! `ffmpeg` and `ffprobe` as processes. Arguments never pass through a shell.

use crate::error::{Error, ErrorKind, IntoError, Result};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

/// A process under way, which is ended when this is dropped.
pub(in crate::image) struct Process {
    pub(in crate::image) child: Child,
    /// What it says.
    complaints: File,
    waited: bool,
}

/// A path as an argument: neither an option nor another protocol, whatever its name.
pub(in crate::image) fn file(path: &Path) -> OsString {
    let mut argument = OsString::from("file:");
    argument.push(path);
    argument
}

/// `tool`, which hears nothing of the terminal's Ctrl-C: who started it ends it.
pub(in crate::image) fn command(tool: &str) -> Command {
    let mut command = Command::new(tool);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    #[cfg(windows)]
    // CREATE_NEW_PROCESS_GROUP
    std::os::windows::process::CommandExt::creation_flags(&mut command, 0x200);
    command.stdin(Stdio::null()).args(["-v", "error"]);
    command
}

impl Process {
    /// Starts `ffmpeg`; `purpose` completes "... takes ffmpeg".
    ///
    /// # Errors
    /// `NotFound` if it is not installed, `Io`.
    pub(in crate::image) fn start(command: &mut Command, purpose: &str) -> Result<Self> {
        let complaints = tempfile::tempfile().error(ErrorKind::Io, || "cannot make a temporary file")?;
        let theirs = complaints.try_clone().error(ErrorKind::Io, || "cannot share a temporary file")?;
        let child = command.stderr(theirs).spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!(
                    "{purpose} takes ffmpeg, and there is none in PATH: install it (apt-get install ffmpeg, brew install \
                     ffmpeg, winget install ffmpeg), or use a folder of pictures"
                ),
            ),
            _ => Error::with_source(ErrorKind::Io, "cannot start ffmpeg", e),
        })?;
        Ok(Self { child, complaints, waited: false })
    }

    /// Waits for its end. What it complained of is an error, even if it went on: a damaged file gives frames all the same.
    ///
    /// # Errors
    /// `Input` if it failed, was killed, or complained.
    pub(in crate::image) fn finish(&mut self) -> Result<()> {
        let status = self.child.wait().error(ErrorKind::Io, || "cannot wait for ffmpeg")?;
        self.waited = true;
        let mut said = Vec::new();
        let read = self.complaints.seek(SeekFrom::Start(0)).and_then(|_| self.complaints.read_to_end(&mut said));
        read.error(ErrorKind::Io, || "cannot read what ffmpeg says")?;
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).map(str::trim);
        match (status.success(), last) {
            (true, None) => Ok(()),
            (true, Some(line)) => Err(Error::new(ErrorKind::Input, format!("ffmpeg says: {line}"))),
            (false, line) => {
                let said = line.map(|line| format!(": {line}")).unwrap_or_default();
                Err(Error::new(ErrorKind::Input, format!("ffmpeg {}{said}", how(status))))
            }
        }
    }
}

/// How it ended.
fn how(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("was killed (signal {signal})");
    }
    match status.code() {
        Some(code) => format!("failed (exit code {code})"),
        None => "failed".into(),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.waited {
            // It may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
