//! Videos, decoded by `ffmpeg` and handed over as PPM pictures: their headers say the size, so that nothing has to be asked
//! before, and a turned video comes upright.

use super::{
    Length, MAX_FRAME,
    ffmpeg::{self, Process},
    raw::fill,
};
use crate::{
    error::{Context, Error, ErrorKind, Result, bail},
    image::Picture,
};
use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{ChildStdout, Stdio},
};

/// Files only: a playlist must not reach into the network.
const PROTOCOLS: [&str; 2] = ["-protocol_whitelist", "file,pipe"];

/// The frames of a video.
pub(super) struct Video {
    process: Process,
    from: BufReader<ChildStdout>,
    name: String,
    frames: usize,
}

impl Video {
    /// # Errors
    /// `NotFound` without `ffmpeg`, `Io`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let mut command = ffmpeg::command("ffmpeg");
        command.arg("-nostdin").args(PROTOCOLS).arg("-i").arg(ffmpeg::file(path)).args(["-map", "0:v:0"]);
        // Each frame once, whenever it is shown: with even times there is nothing to leave out or to repeat.
        command.args(["-vf", "settb=1/25,setpts=N", "-r", "25", "-f", "image2pipe", "-c:v", "ppm", "pipe:1"]);
        let mut process = Process::start(command.stdout(Stdio::piped()), "reading a video").context(|| name.clone())?;
        let Some(out) = process.child.stdout.take() else { bail!(Internal, "ffmpeg without an output") };
        Ok(Self { process, from: BufReader::with_capacity(1 << 16, out), name, frames: 0 })
    }

    fn read(&mut self) -> Result<Option<Picture>> {
        let cut = |e| Error::with_source(ErrorKind::Io, "cannot read from ffmpeg", e);
        if self.from.fill_buf().map_err(cut)?.is_empty() {
            return self.process.finish().map(|()| None);
        }
        let (width, height) = self.header()?;
        let mut rgb = vec![0; width * height * 3];
        if fill(&mut self.from, &mut rgb).map_err(cut)? < rgb.len() {
            self.process.finish()?;
            bail!(Input, "ffmpeg ended within a frame");
        }
        self.frames += 1;
        Picture::new(width, height, rgb).map(Some)
    }

    /// `P6`, width and height, and the largest value, each on a line of its own.
    fn header(&mut self) -> Result<(usize, usize)> {
        let mut words = Vec::new();
        while words.len() < 4 {
            let mut line = String::new();
            let read = (&mut self.from).take(64).read_line(&mut line);
            if read.is_err() || !line.ends_with('\n') {
                self.process.finish()?;
                bail!(Input, "ffmpeg gave no picture");
            }
            words.extend(line.split_whitespace().map(str::to_owned));
        }
        let side = |i: usize| words.get(i).and_then(|w: &String| w.parse::<usize>().ok());
        let size = side(1).zip(side(2)).filter(|(w, h)| w.checked_mul(*h).is_some_and(|n| n <= MAX_FRAME / 3));
        match (words[0].as_str(), size, words[3].as_str()) {
            ("P6", Some(size), "255") => Ok(size),
            _ => bail!(Input, "ffmpeg gave a picture of another kind: {}", words.join(" ")),
        }
    }
}

impl Iterator for Video {
    type Item = Result<Picture>;

    fn next(&mut self) -> Option<Result<Picture>> {
        let (name, before) = (self.name.clone(), self.frames);
        self.read().context(|| format!("{name}, of which {before} frames could be read")).transpose()
    }
}

/// How many frames `ffprobe` counts, and how many a second; nothing where it is not installed or cannot tell.
pub(super) fn probe(path: &Path) -> (Length, Option<f64>) {
    let mut command = ffmpeg::command("ffprobe");
    command.args(PROTOCOLS).args(["-select_streams", "v:0", "-count_packets"]);
    command.args(["-show_entries", "stream=nb_read_packets,avg_frame_rate", "-of", "json"]).arg(ffmpeg::file(path));
    let found = command.stderr(Stdio::null()).output().ok();
    let json = found.and_then(|out| serde_json::from_slice::<serde_json::Value>(&out.stdout).ok()).unwrap_or_default();
    let word = |key: &str| json["streams"][0][key].as_str();
    let length = word("nb_read_packets").and_then(|n| n.parse().ok()).map_or(Length::Unknown, Length::About);
    let rate = word("avg_frame_rate").and_then(|rate| {
        let (frames, seconds) = rate.split_once('/')?;
        Some(frames.parse::<f64>().ok()? / seconds.parse::<f64>().ok()?)
    });
    (length, rate.filter(|r| r.is_finite() && *r > 0.0))
}
