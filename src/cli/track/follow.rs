//! The frames of `impasto track`, one after another, and what is kept of a run that ends early.

use super::{
    super::{
        failure::{Failure, Outcome, complain, note, print_line},
        progress::Progress,
        signal,
    },
    Args,
    outputs::Sinks,
    resume::{self, State},
};
use impasto::{
    ErrorKind, Result,
    error::IntoError,
    gpu::Gpu,
    graph::Control,
    models::sam2::video::{
        Tracked,
        clip::{Course, Followed, Propagation},
    },
};
use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

/// A clip being followed.
pub(super) struct Run<'a> {
    pub(super) args: &'a Args,
    pub(super) gpu: Gpu,
    pub(super) course: Course,
    pub(super) size: (usize, usize),
    pub(super) state: PathBuf,
    pub(super) propagation: Propagation,
    pub(super) sinks: Sinks<'a>,
    pub(super) progress: &'a Progress,
    pub(super) quiet: bool,
}

impl Run<'_> {
    /// Follows the objects to the end of the clip, or until the run is ended.
    pub(super) fn follow(mut self) -> Outcome {
        self.progress.timed("following");
        signal::PATIENT.store(true, Ordering::SeqCst);
        let start = Instant::now();
        let (mut done, mut objects, mut last) = (0, 0, None);
        let ended = loop {
            if let Err(e) = signal::check() {
                break Err(e.into());
            }
            // Not to be cancelled: what is remembered is to be that of whole frames.
            match pollster::block_on(self.propagation.next(Control::default())) {
                Ok(None) => break Ok(()),
                // A stream that the same Ctrl-C has ended may end in the middle of a frame.
                Err(e) => break Err(signal::check().err().unwrap_or(e).into()),
                Ok(Some(frame)) => {
                    if let Err(e) = self.write(&frame) {
                        break Err(e);
                    }
                    (done, objects) = (done + 1, objects.max(frame.objects.len()));
                    last = Some(frame.position);
                    let rate = f64::from(done) / start.elapsed().as_secs_f64();
                    self.progress.say(format!("frame {} ({rate:.1} fps)", frame.position.frame));
                    if let Some(total) = self.propagation.total() {
                        self.progress.share(done as f32 / total.max(1) as f32);
                    }
                }
            }
        };
        let Self { args, gpu, course, size, state, mut propagation, sinks, progress, quiet } = self;
        progress.stage("writing");
        let finished = sinks.finish();
        match ended {
            Ok(()) => {
                finished?;
                if args.resume {
                    std::fs::remove_file(&state)
                        .error(ErrorKind::Io, || format!("cannot remove {}", state.display()))?;
                }
                let seconds = start.elapsed().as_secs_f64();
                let rate = f64::from(done) / seconds;
                let (clip, peak) = (&args.clip, gpu.peak_bytes() as f64 / 1e6);
                let line = format!(
                    "{clip}: {done} frames, {objects} objects in {seconds:.1} s ({rate:.1} fps), at most {peak:.1} MB on the GPU"
                );
                let told = quiet || args.outputs.json_on_stdout();
                if told { Ok(()) } else { progress.beside(|| print_line(&line)) }
            }
            Err(Failure::Error(e)) => {
                progress.beside(|| {
                    match e.kind() {
                        ErrorKind::Cancelled => signal::tell(),
                        _ => complain(&e.to_string()),
                    }
                    // What has failed already fails once more when it is ended.
                    if let Err(other) = finished
                        && other.to_string() != e.to_string()
                    {
                        complain(&other.to_string());
                    }
                    if let Some(position) = last {
                        keep(args, &State::new(position, &course, size), &state, &mut propagation, done);
                    }
                });
                if e.kind() == ErrorKind::Cancelled { Err(e.into()) } else { Err(Failure::Told) }
            }
            Err(other) => Err(other),
        }
    }

    fn write(&mut self, frame: &Followed) -> Outcome {
        let masks = frame.objects.iter().map(Tracked::mask).collect::<Result<Vec<_>>>()?;
        self.sinks.write(frame, &masks, self.progress)
    }
}

/// Leaves what is known, and says how to go on.
fn keep(args: &Args, state: &State, path: &Path, propagation: &mut Propagation, done: u32) {
    let saved = pollster::block_on(propagation.session().save(Control::default()));
    match saved.and_then(|session| state.write(path, &session)) {
        Ok(()) => {
            let whole: Vec<&Path> = args.outputs.whole_files().collect();
            note(&format!("{done} frames are done; to go on: {}", resume::command(&whole)));
        }
        Err(e) => note(&format!("{done} frames are done; what is needed to go on could not be kept: {e}")),
    }
}
