//! What `track` writes, frame by frame.

use super::{record::FrameRecord, tensors::TensorFile};
use crate::cli::{
    failure::{Outcome, print_json},
    pattern,
    progress::Progress,
    prompts::usage,
};
use impasto::{
    Error, ErrorKind, Result,
    error::IntoError,
    image::{
        Mask, draw,
        frames::{Clip, Length},
        indexed,
        movie::{self, Movie},
        output,
    },
    models::sam2::video::clip::Followed,
};
use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output (a file is called as its frame: the picture's name, or 00000, 00001 ..)")]
pub(super) struct Outputs {
    /// A PNG for each frame with the palette of DAVIS: the pixel is the object's number, the lower one where objects overlap
    #[arg(short, long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Masks of their own for each object: DIR/OBJ/FRAME.png, white on black, and --cutouts likewise
    #[arg(long)]
    per_object: bool,
    /// A line of JSON for each frame, as they come, on stdout (and nothing else there) or in FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub(super) json: Option<PathBuf>,
    /// The frames with the masks drawn on them: a GIF, a video (.mp4, .mov, .mkv, .webm, .avi; takes ffmpeg), or PNGs
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) overlay: Option<PathBuf>,
    /// Frames a second of the overlay [default: the clip's, or 24]
    #[arg(long, value_name = "RATE", requires = "overlay")]
    fps: Option<f64>,
    /// The objects with the rest transparent, a PNG for each frame
    #[arg(long, value_name = "DIR")]
    cutouts: Option<PathBuf>,
    /// Raw tensors, f32: fN.low_res_masks (OBJECTS, LOW, LOW), fN.obj_score (OBJECTS) for each frame N
    #[arg(long, value_name = "FILE.safetensors")]
    pub(super) save_tensors: Option<PathBuf>,
}

impl Outputs {
    pub(super) fn json_on_stdout(&self) -> bool {
        self.json.as_deref() == Some(Path::new("-"))
    }

    /// The overlay, if it is one file for all frames.
    pub(super) fn film(&self) -> Option<&Path> {
        self.overlay.as_deref().filter(|path| movie::Format::of(path).is_some() && !path.is_dir())
    }

    /// Files of all frames, which cannot be continued.
    pub(super) fn whole_files(&self) -> impl Iterator<Item = &Path> {
        self.film().into_iter().chain(self.save_tensors.as_deref())
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        let overlay = self.overlay.as_deref().filter(|_| self.film().is_none());
        self.out.as_deref().into_iter().chain(overlay).chain(self.cutouts.as_deref())
    }

    /// Before the work: names and places, and that nothing is written twice or over an input.
    pub(super) fn check(&self, clip_path: &Path, clip: &Clip, inputs: &[PathBuf], objects: &[u32]) -> Outcome {
        let any = self.out.is_some() || self.json.is_some() || self.overlay.is_some();
        usage(any || self.cutouts.is_some() || self.save_tensors.is_some(), || {
            "no output is asked for: give --out, --json, --overlay, --cutouts or --save-tensors".into()
        })?;
        usage(!self.per_object || self.out.is_some() || self.cutouts.is_some(), || {
            "--per-object says how --out and --cutouts are written: give one of them".into()
        })?;
        usage(self.fps.is_none_or(|fps| fps > 0.0 && fps <= 1000.0), || "--fps takes a rate up to 1000".into())?;
        let refuse = |message: String| Err(Error::new(ErrorKind::Argument, message).into());
        if let Some(object) = objects.iter().find(|o| **o > 255 && self.out.is_some() && !self.per_object) {
            return refuse(format!("object {object}: a palette has room for objects 1 to 255: use --per-object"));
        }
        if let Some(overlay) = self.overlay.as_deref().filter(|path| self.film().is_none() && !path.is_dir())
            && overlay.extension().is_some()
        {
            let known = ".gif, .mp4, .mov, .mkv, .webm or .avi, or a folder";
            return refuse(format!("{}: an overlay is a {known}", overlay.display()));
        }
        if let (Length::Exact(frames), Some(_)) = (clip.length(), self.folders().next()) {
            let mut names = HashSet::new();
            if let Some(twice) = (0..frames).map(|i| clip.name(i)).find(|name| !names.insert(name.clone())) {
                return refuse(format!("two frames are called {twice}: their files would be one"));
            }
        }
        let same = |path: &Path| path.canonicalize().or(std::path::absolute(path)).unwrap_or_else(|_| path.into());
        let mut folders = HashSet::from([same(clip_path)]);
        for folder in self.folders() {
            if !folders.insert(same(folder)) {
                return refuse(format!("{}: this folder has the clip or another output already", folder.display()));
            }
            if folder.exists() && !folder.is_dir() {
                return refuse(format!("{}: it is a file, and should be a folder", folder.display()));
            }
            output::check(&if folder.is_dir() { folder.join("frame.png") } else { folder.into() })?;
        }
        let json = self.json.iter().filter(|_| !self.json_on_stdout());
        let files = self.whole_files().map(Path::to_path_buf).chain(json.cloned());
        pattern::check(inputs, files)
    }
}

/// Files that grow, and what goes into them.
pub(super) struct Sinks<'a> {
    outputs: &'a Outputs,
    json: Option<File>,
    film: Option<Movie>,
    tensors: Option<TensorFile>,
}

impl<'a> Sinks<'a> {
    /// Makes folders and begins files. `resumed`: lines of JSON are added to those that are there.
    pub(super) fn open(outputs: &'a Outputs, clip: &Clip, resumed: bool) -> Result<Self> {
        for folder in outputs.folders() {
            make(folder)?;
        }
        let json = match &outputs.json {
            Some(path) if !outputs.json_on_stdout() => {
                let cannot = || format!("cannot write {}", path.display());
                if resumed {
                    cut_unfinished_line(path).error(ErrorKind::Io, cannot)?;
                }
                let file = OpenOptions::new().create(true).append(resumed).write(true).truncate(!resumed).open(path);
                Some(file.error(ErrorKind::Io, cannot)?)
            }
            _ => None,
        };
        let rate = outputs.fps.or(clip.rate()).unwrap_or(24.0);
        let film = outputs.film().map(|path| Movie::create(path, rate, clip.size())).transpose()?;
        let tensors = outputs.save_tensors.as_deref().map(TensorFile::create).transpose()?;
        Ok(Self { outputs, json, film, tensors })
    }

    /// Writes all that is asked for of a frame. `masks`: one for each object.
    pub(super) fn write(&mut self, frame: &Followed, masks: &[Mask], progress: &Progress) -> Outcome {
        let file = |folder: &Path| folder.join(format!("{}.png", frame.name));
        let size = (frame.picture.width(), frame.picture.height());
        let ids = || frame.objects.iter().map(|o| o.object);
        match &self.outputs.out {
            Some(folder) if self.outputs.per_object => {
                for (id, mask) in ids().zip(masks) {
                    output::save_mask(&file(&object_folder(folder, id)?), mask)?;
                }
            }
            Some(folder) => indexed::save(&file(folder), &ids().zip(masks).collect::<Vec<_>>(), size)?,
            None => {}
        }
        let cut =
            |path: &Path, mask: &Mask| output::save_rgba(path, &draw::cut_out(&frame.picture, mask)?, size.0, size.1);
        match &self.outputs.cutouts {
            Some(folder) if self.outputs.per_object => {
                for (id, mask) in ids().zip(masks) {
                    cut(&file(&object_folder(folder, id)?), mask)?;
                }
            }
            Some(folder) => cut(&file(folder), &all_of(masks, size)?)?,
            None => {}
        }
        if let Some(overlay) = &self.outputs.overlay {
            let mut drawn = frame.picture.clone();
            draw::overlay(&mut drawn, &masks.iter().collect::<Vec<_>>())?;
            match &mut self.film {
                Some(film) => film.add(&drawn)?,
                None => output::save_picture(&file(overlay), &drawn)?,
            }
        }
        if let Some(tensors) = &mut self.tensors {
            tensors.add(frame)?;
        }
        // Last, so that a frame with a line is a frame with all its files.
        let Some(path) = &self.outputs.json else { return Ok(()) };
        let record = FrameRecord::new(frame, masks)?;
        match &mut self.json {
            None => progress.beside(|| print_json(&record)),
            Some(file) => {
                let cannot = || format!("cannot write {}", path.display());
                let mut line = serde_json::to_vec(&record).error(ErrorKind::Internal, cannot)?;
                line.push(b'\n');
                Ok(file.write_all(&line).error(ErrorKind::Io, cannot)?)
            }
        }
    }

    /// Ends the files that have all frames, with those that came.
    pub(super) fn finish(self) -> Result<()> {
        let film = self.film.map_or(Ok(()), Movie::finish);
        self.tensors.map_or(Ok(()), TensorFile::finish).and(film)
    }
}

/// Of a run that a full disk has ended, a line may be there in part. Its frame is not done, and comes again.
fn cut_unfinished_line(path: &Path) -> std::io::Result<()> {
    let mut lines = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => BufReader::new(file?),
    };
    let (mut line, mut whole) = (Vec::new(), 0);
    while lines.read_until(b'\n', &mut line)? > 0 {
        if !line.ends_with(b"\n") {
            return OpenOptions::new().write(true).open(path)?.set_len(whole);
        }
        whole += line.len() as u64;
        line.clear();
    }
    Ok(())
}

fn object_folder(folder: &Path, object: u32) -> Result<PathBuf> {
    let folder = folder.join(object.to_string());
    make(&folder)?;
    Ok(folder)
}

fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).error(ErrorKind::Io, || format!("cannot make folder {}", folder.display()))
}

/// What is in any of the masks.
fn all_of(masks: &[Mask], (width, height): (usize, usize)) -> Result<Mask> {
    let mut all = Mask::new(width, height)?;
    for mask in masks {
        all.unite(mask)?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_there_in_part_are_cut() {
        let path = tempfile::NamedTempFile::new().unwrap();
        for (there, left) in [("{}\n{\"fra", "{}\n"), ("{}\n{}\n", "{}\n{}\n"), ("{\"f", ""), ("", "")] {
            std::fs::write(path.path(), there).unwrap();
            cut_unfinished_line(path.path()).unwrap();
            assert_eq!(std::fs::read_to_string(path.path()).unwrap(), left);
        }
        cut_unfinished_line(Path::new("/nowhere/lines.jsonl")).unwrap();
    }
}
