//! A clip from one end to the other: prompts given when their frames come, and every object on every frame. After
//! `SAM2VideoPredictor.propagate_in_video`.

mod course;

pub use course::{Course, Direction, Given, Position, Preprocess, Prompts};

use super::{Session, Tracked};
use crate::{
    error::{Result, bail, ensure},
    graph::Control,
    image::{Picture, batch::Ahead, frames::Clip, pillow},
    models::sam2::{
        model::{MEAN, STD},
        predictor::Predictor,
    },
};
use course::{Step, told};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// Frames that are decoded and not yet looked at, at most.
const AHEAD: usize = 2;

/// A frame and what is on it.
#[derive(Debug)]
pub struct Followed {
    /// Where it is.
    pub position: Position,
    /// [`Clip::name`].
    pub name: String,
    /// The frame itself.
    pub picture: Picture,
    /// The objects that are known by now, in the order in which they were prompted.
    pub objects: Vec<Tracked>,
}

/// Objects being followed through a clip, frame by frame.
pub struct Propagation {
    session: Session,
    frames: Ahead<Result<Loaded>>,
    prompts: Prompts,
    course: Course,
    total: Option<usize>,
    size: (usize, usize),
}

struct Loaded {
    step: Step,
    /// Nothing behind the clip's end.
    content: Option<(String, Picture, Option<Vec<f32>>)>,
}

impl Propagation {
    /// Begins to follow, in a new session, or with [`Course::after`] in one that was restored. Frames are decoded on another
    /// thread, a few ahead.
    ///
    /// # Errors
    /// Those of [`Course::check`]; `Argument` for a stream and a course that [needs any order](Course::needs_any_order); `Io`.
    pub fn new(session: Session, clip: Clip, mut prompts: Prompts, course: Course) -> Result<Self> {
        course.check(&prompts, &clip)?;
        ensure!(
            clip.seeks() || !course.needs_any_order(&prompts),
            Argument,
            "a stream comes in one order only: keep its frames, or make a folder of them (ffmpeg -i CLIP frames/%05d.png)"
        );
        let (total, size) = (course.total(&prompts, clip.length()), clip.size());
        let end = Arc::new(AtomicUsize::new(usize::MAX));
        let steps = course.steps(&prompts, end.clone());
        course.forget_given(&mut prompts);
        let side = session.image.side;
        // One thread, for the decoder has one place.
        let clip = Mutex::new(clip);
        let load = move |step: Step| -> Result<Loaded> {
            let mut clip = clip.lock().unwrap_or_else(PoisonError::into_inner);
            let frame = step.frame();
            let Some(picture) = clip.frame(frame)? else {
                end.fetch_min(frame, Ordering::SeqCst);
                return Ok(Loaded { step, content: None });
            };
            let prepared = match (step, course.preprocess) {
                (Step::Before(_), _) => None,
                (_, Preprocess::Transformers) => Some(Predictor::preprocess(&picture, side)?),
                (_, Preprocess::Official) => Some(pillow::preprocess(&picture, side, MEAN, STD)?),
            };
            Ok(Loaded { step, content: Some((clip.name(frame), picture, prepared)) })
        };
        let frames = Ahead::new(steps, 1, AHEAD, load)?;
        Ok(Self { session, frames, prompts, course, total, size })
    }

    /// How many frames are going to be reported, as far as is known.
    pub fn total(&self) -> Option<usize> {
        self.total
    }

    /// The session, as it is after the frame that was reported last.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The next frame; `None` after the last one.
    ///
    /// # Errors
    /// Those of the clip's frames, `Input` for a frame of another size, `Argument` if the clip ends before a prompt, and those of
    /// [`Session::prompt`] and [`Session::track`].
    pub async fn next(&mut self, control: Control<'_>) -> Result<Option<Followed>> {
        loop {
            let Some(loaded) = self.frames.next() else { return Ok(None) };
            let Loaded { step, content } = loaded?;
            let Some((name, picture, pixels)) = content else {
                let late = self.prompts.range(step.frame()..).next();
                let late =
                    late.map(|(frame, _)| *frame).or((step.frame() == self.course.from).then_some(self.course.from));
                match late {
                    Some(frame) => {
                        bail!(Argument, "the clip has {} frames: it ends before frame {frame}", step.frame())
                    }
                    None => continue,
                }
            };
            let (size, known) = ((picture.width(), picture.height()), self.size);
            ensure!(
                size == known,
                Input,
                "frame {} ({name}) is {}x{}, those before it are {}x{}",
                step.frame(),
                size.0,
                size.1,
                known.0,
                known.1
            );
            if let Some(pixels) = &pixels {
                self.session.set_pixels(step.frame(), pixels, size, control).await?;
            }
            let (position, objects) = match step {
                Step::Before(frame) => (Position { frame, reverse: false }, Vec::new()),
                Step::Prompt(frame) => {
                    self.give(frame, control).await?;
                    continue;
                }
                Step::Track(position) => {
                    let given = self.prompts.get(&position.frame).into_iter().flatten();
                    if given.into_iter().any(|(object, _)| self.session.objects().any(|known| known == *object)) {
                        // What it corrects.
                        self.session.track(position.reverse, control).await?;
                    }
                    self.give(position.frame, control).await?;
                    let objects = self.session.track(position.reverse, control).await?;
                    (position, objects)
                }
            };
            return Ok(Some(Followed { position, name, picture, objects }));
        }
    }

    /// Gives the prompts of the present frame.
    async fn give(&mut self, frame: usize, control: Control<'_>) -> Result<()> {
        for (object, given) in self.prompts.remove(&frame).unwrap_or_default() {
            let answer = match &given {
                Given::Points(prompt) => self.session.prompt(object, prompt, false, control).await,
                Given::Mask(mask) => self.session.prompt_mask(object, mask, control).await,
            };
            answer.map_err(|e| e.context(told(object, frame)))?;
        }
        Ok(())
    }
}
