//! Pictures inside a terminal, by the protocols of kitty and of iTerm2.
//!
//! Sources: <https://sw.kovidgoyal.net/kitty/graphics-protocol/> and <https://iterm2.com/documentation-images.html>.

use base64::{Engine, engine::general_purpose::STANDARD};
use impasto::{
    ErrorKind, Result,
    error::IntoError,
    image::{Picture, output},
};
use std::io::{self, IsTerminal, Write};

/// How a terminal takes pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    Kitty,
    ITerm2,
}

/// Lines of text that a picture is high.
const LINES: usize = 12;
/// The most base64 in one escape sequence of kitty's.
const CHUNK: usize = 4096;

impl Terminal {
    /// The terminal on stderr, where the progress bar is.
    ///
    /// # Errors
    /// Why it cannot show pictures.
    pub(super) fn of_stderr() -> Result<Self, String> {
        if !io::stderr().is_terminal() {
            return Err("stderr is not a terminal: give a file's name".into());
        }
        Self::of_env(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// As the environment tells: asking the terminal itself would take its input away from whoever else reads it.
    fn of_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let term = env("TERM").unwrap_or_default();
        let inside = ["tmux", "screen"].into_iter().find(|name| term.starts_with(name));
        let inside = inside.or_else(|| env("TMUX").map(|_| "tmux")).or_else(|| env("STY").map(|_| "screen"));
        if let Some(name) = inside {
            return Err(format!("{name} lets no pictures through to the terminal: give a file's name"));
        }
        match env("TERM_PROGRAM").as_deref() {
            Some("ghostty") => return Ok(Self::Kitty),
            Some("iTerm.app" | "WezTerm" | "mintty") => return Ok(Self::ITerm2),
            _ => {}
        }
        // KONSOLE_VERSION is 220400 for the first that shows pictures, 22.04.
        let konsole = env("KONSOLE_VERSION").and_then(|version| version.parse::<u32>().ok());
        if ["xterm-kitty", "xterm-ghostty"].contains(&term.as_str())
            || env("KITTY_WINDOW_ID").is_some()
            || konsole.is_some_and(|version| version >= 220_400)
        {
            return Ok(Self::Kitty);
        }
        // Over ssh TERM_PROGRAM is lost; these may be passed on.
        if env("WEZTERM_PANE").is_some() || env("LC_TERMINAL").as_deref() == Some("iTerm2") {
            return Ok(Self::ITerm2);
        }
        Err("this terminal is not known to show pictures (kitty, Ghostty, Konsole, iTerm2, WezTerm and mintty do): give \
             a file's name"
            .into())
    }

    /// Shows a picture on stderr, in the lines above the cursor: in new ones, or over the last picture.
    ///
    /// # Errors
    /// `Io` if stderr cannot be written to.
    pub(super) fn show(self, picture: &Picture, index: usize, first: bool) -> Result<()> {
        let png = output::png(picture)?;
        // Kitty takes a new picture under a known number for the old one, also for that of an earlier run.
        let number = std::process::id() << 10 | index as u32;
        let bytes = self.drawn(&png, number, first);
        let mut stderr = io::stderr().lock();
        stderr.write_all(&bytes).and_then(|()| stderr.flush()).error(ErrorKind::Io, || "cannot write to stderr")
    }

    /// The bytes that [`show`](Self::show) writes. The cursor ends where it was, at the left.
    fn drawn(self, png: &[u8], number: u32, first: bool) -> Vec<u8> {
        let room = if first { "\n".repeat(LINES) } else { String::new() };
        // Up, and back to where that is after the picture, wherever that leaves the cursor.
        let mut text = format!("\r{room}\x1b[{LINES}A\x1b7");
        let base64 = STANDARD.encode(png);
        match self {
            Self::ITerm2 => {
                let size = png.len();
                text +=
                    &format!("\x1b]1337;File=inline=1;size={size};height={LINES};preserveAspectRatio=1:{base64}\x07");
            }
            Self::Kitty => {
                // Transmit and show (T) a PNG (100), without an answer (q=2).
                let mut keys = format!("a=T,f=100,i={number},r={LINES},q=2,");
                let mut rest = base64.as_str();
                while !rest.is_empty() {
                    let (chunk, after) = rest.split_at(rest.len().min(CHUNK));
                    text += &format!("\x1b_G{keys}m={};{chunk}\x1b\\", u8::from(!after.is_empty()));
                    keys.clear();
                    rest = after;
                }
            }
        }
        text += &format!("\x1b8\x1b[{LINES}B");
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_known_by_their_environment() {
        let of = |vars: &[(&str, &str)]| {
            let vars: Vec<(String, String)> = vars.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            Terminal::of_env(|name| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
        };
        for (vars, expected) in [
            (&[("TERM", "xterm-kitty")][..], Terminal::Kitty),
            (&[("TERM", "xterm-256color"), ("KITTY_WINDOW_ID", "1")], Terminal::Kitty),
            (&[("TERM", "xterm-ghostty"), ("TERM_PROGRAM", "ghostty")], Terminal::Kitty),
            (&[("TERM", "xterm-256color"), ("KONSOLE_VERSION", "230804")], Terminal::Kitty),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")], Terminal::ITerm2),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "WezTerm")], Terminal::ITerm2),
            (&[("TERM", "xterm"), ("TERM_PROGRAM", "mintty")], Terminal::ITerm2),
            (&[("TERM", "xterm-256color"), ("LC_TERMINAL", "iTerm2")], Terminal::ITerm2),
            // Opened from a kitty.
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "WezTerm"), ("KITTY_WINDOW_ID", "1")], Terminal::ITerm2),
        ] {
            assert_eq!(of(vars), Ok(expected), "{vars:?}");
        }
        for (vars, says) in [
            (&[("TERM", "tmux-256color"), ("KITTY_WINDOW_ID", "1")][..], "tmux"),
            (&[("TERM", "xterm-kitty"), ("TMUX", "/tmp/tmux-0/default,1,0")], "tmux"),
            (&[("TERM", "screen"), ("TERM_PROGRAM", "iTerm.app")], "screen"),
            (&[("TERM", "xterm-256color"), ("KONSOLE_VERSION", "211203")], "not known"),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "Apple_Terminal")], "not known"),
            (&[], "not known"),
        ] {
            assert!(of(vars).unwrap_err().contains(says), "{vars:?}");
        }
    }

    /// Bytes that make `chunks` chunks, the last one not full.
    fn png(chunks: usize) -> Vec<u8> {
        (0..CHUNK / 4 * 3 * (chunks - 1) + 100).map(|i| (i * i / 7) as u8).collect()
    }

    fn text(terminal: Terminal, png: &[u8], first: bool) -> String {
        String::from_utf8(terminal.drawn(png, 77, first)).unwrap()
    }

    #[test]
    fn kitty_takes_chunks() {
        for chunks in [1, 2, 5] {
            let png = png(chunks);
            let text = text(Terminal::Kitty, &png, false);
            let body = text.strip_prefix("\r\x1b[12A\x1b7").unwrap().strip_suffix("\x1b8\x1b[12B").unwrap();
            let mut base64 = String::new();
            let sequences: Vec<&str> = body.split_terminator("\x1b\\").collect();
            assert_eq!(sequences.len(), chunks);
            for (i, sequence) in sequences.iter().enumerate() {
                let (keys, chunk) = sequence.strip_prefix("\x1b_G").unwrap().split_once(';').unwrap();
                let more = u8::from(i + 1 < chunks);
                let all = if i == 0 { "a=T,f=100,i=77,r=12,q=2," } else { "" };
                assert_eq!(keys, format!("{all}m={more}"));
                assert!(chunk.len() == CHUNK || (more == 0 && chunk.len() < CHUNK), "{}", chunk.len());
                base64 += chunk;
            }
            assert_eq!(STANDARD.decode(base64).unwrap(), png);
        }
        // A last chunk that is full is the last.
        let full = text(Terminal::Kitty, &png(2)[..CHUNK / 4 * 3], false);
        assert!(full.contains("q=2,m=0;") && full.matches("\x1b_G").count() == 1);
    }

    #[test]
    fn iterm2_takes_one_sequence() {
        let png = png(3);
        let text = text(Terminal::ITerm2, &png, true);
        // Room is made below before the first picture.
        let head = format!("\r{}\x1b[12A\x1b7\x1b]1337;File=inline=1;size={};", "\n".repeat(12), png.len());
        let (keys, rest) = text.strip_prefix(&head).unwrap().split_once(':').unwrap();
        assert_eq!(keys, "height=12;preserveAspectRatio=1");
        assert_eq!(STANDARD.decode(rest.strip_suffix("\x07\x1b8\x1b[12B").unwrap()).unwrap(), png);
    }
}
