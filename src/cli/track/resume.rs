//! Going on where a run ended.

use impasto::{
    ErrorKind, Result,
    error::IntoError,
    image::output,
    models::sam2::video::clip::{Course, Direction, Position},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How a file begins that [`State::write`] wrote.
const MAGIC: &str = "impasto track 1";

/// What a run needs to know of the one before it. The file is a line that says what it is, a line of this as JSON, and the
/// session as [`Session::save`](impasto::models::sam2::video::Session::save) gives it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// The frame that was done last.
    frame: usize,
    reverse: bool,
    /// The course: another one would give other results.
    course: String,
    /// Of frames.
    size: (usize, usize),
}

/// The parts of a course that have to stay.
fn told(course: &Course) -> String {
    let direction = match course.direction {
        Direction::Forward => "forward",
        Direction::Reverse => "reverse",
        Direction::Both => "both",
    };
    let first = if course.prompts_first { ", all prompts first" } else { "" };
    format!("{direction} from frame {}{first}, preprocessed as {:?}", course.from, course.preprocess)
}

impl State {
    pub(super) fn new(position: Position, course: &Course, size: (usize, usize)) -> Self {
        Self { frame: position.frame, reverse: position.reverse, course: told(course), size }
    }

    pub(super) fn write(&self, path: &Path, session: &[u8]) -> Result<()> {
        let json = serde_json::to_string(self).error(ErrorKind::Internal, || "cannot write the state")?;
        output::write(path, &[format!("{MAGIC}\n{json}\n").as_bytes(), session].concat())
    }

    /// Where the run of `path` was, and its session.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Input` if it is of another run or no state at all.
    pub(super) fn read(path: &Path, course: &Course, size: (usize, usize)) -> Result<(Position, Vec<u8>)> {
        let named = path.display();
        let bytes = std::fs::read(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                let message = format!("{named}: no such file: no run ended early here (or --state is another)");
                impasto::Error::new(ErrorKind::NotFound, message)
            }
            _ => impasto::Error::with_source(ErrorKind::Io, format!("cannot read {named}"), e),
        })?;
        let mut parts = bytes.splitn(3, |b| *b == b'\n');
        let input = |what: String| impasto::Error::new(ErrorKind::Input, format!("{named}: {what}"));
        let is_one = parts.next() == Some(MAGIC.as_bytes());
        let state: Option<Self> = parts.next().filter(|_| is_one).and_then(|json| serde_json::from_slice(json).ok());
        let (Some(state), Some(session)) = (state, parts.next()) else {
            return Err(input("not a state of `impasto track`".into()));
        };
        let position = Position { frame: state.frame, reverse: state.reverse };
        let now = Self::new(position, course, size);
        if state != now {
            let Self { course, size: (w, h), .. } = state;
            return Err(input(format!("it is of another run: {course}, frames of {w}x{h}")));
        }
        Ok((position, session.to_vec()))
    }
}

/// The command that goes on: this one and `--resume`. Files that cannot be continued get another name.
pub(super) fn command(whole: &[&Path]) -> String {
    let mut words: Vec<String> = std::env::args().collect();
    if let Some(program) = words.first_mut() {
        *program = "impasto".into();
    }
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".into());
    }
    for path in whole.iter().filter(|path| path.exists()) {
        let (old, new) = (path.display().to_string(), another(path).display().to_string());
        for word in &mut words {
            if *word == old {
                word.clone_from(&new);
            } else if let Some(flag) =
                word.strip_suffix(&old).filter(|flag| flag.starts_with("--") && flag.ends_with('='))
            {
                *word = format!("{flag}{new}");
            }
        }
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// `over.mp4` to `over.2.mp4`, or the first number after it that is free.
fn another(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let named = |n: u32| path.with_file_name(format!("{stem}.{n}.{extension}"));
    (2..).map(named).find(|path| !path.exists()).unwrap_or_else(|| path.into())
}

/// As a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("0:12,3@4"), "0:12,3@4");
        assert_eq!(quoted("a b's"), r"'a b'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_state_is_of_its_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let course = Course::default();
        let at = Position { frame: 3, reverse: false };
        State::new(at, &course, (4, 5)).write(&path, b"session\nbytes").unwrap();
        assert_eq!(State::read(&path, &course, (4, 5)).unwrap(), (at, b"session\nbytes".to_vec()));
        let says = |course: &Course, size, what: &str| {
            let e = State::read(&path, course, size).unwrap_err();
            assert!(e.to_string().contains(what), "{e}");
        };
        says(&course, (4, 6), "another run: forward from frame 0, preprocessed as Transformers, frames of 4x5");
        says(&Course { direction: Direction::Both, ..course }, (4, 5), "another run");
        std::fs::write(&path, "impasto track 1\n{}\n").unwrap();
        says(&course, (4, 5), "not a state");
        std::fs::remove_file(&path).unwrap();
        says(&course, (4, 5), "no run ended early here");
    }

    #[test]
    fn films_are_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let film = dir.path().join("over.mp4");
        assert_eq!(another(&film), dir.path().join("over.2.mp4"));
        std::fs::write(dir.path().join("over.2.mp4"), "").unwrap();
        assert_eq!(another(&film), dir.path().join("over.3.mp4"));
    }
}
