//! Which frames of a clip are followed, in which order, and by which prompts.

use crate::{
    error::{Result, ensure},
    image::{
        Mask,
        frames::{Clip, Length},
    },
    models::sam2::prompt::Prompt,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// A prompt of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// Points, a box, or both.
    Points(Prompt),
    /// The object's mask, of any size.
    Mask(Mask),
}

/// The prompts of each frame, with the numbers of their objects.
pub type Prompts = BTreeMap<usize, Vec<(u32, Given)>>;

/// Which way objects are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// From the first prompted frame to the end.
    #[default]
    Forward,
    /// From the last prompted frame to the beginning.
    Reverse,
    /// From the first prompted frame to the end, and then from there to the beginning. All prompts are given before.
    Both,
}

/// How frames become the encoder's input. The two implementations differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preprocess {
    /// As transformers' `Sam2VideoProcessor`, and as both do with single pictures: bilinear with antialiasing, in f32.
    #[default]
    Transformers,
    /// As the official package does with folders of pictures: Pillow's bicubic, in 8 bits.
    Official,
}

/// Which frames, in which order, and how.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Course {
    /// The way.
    pub direction: Direction,
    /// The first frame of interest.
    pub from: usize,
    /// The last one; the clip's when `None`.
    pub to: Option<usize>,
    /// Give all prompts before any frame is followed, as scripts of the reference do: what is prompted late is then known, and
    /// attended to, on earlier frames, and no prompt sees what was followed up to its frame. Else a prompt is given when its
    /// frame comes, and corrects what was found there of an object that is followed already.
    pub prompts_first: bool,
    /// How frames are prepared.
    pub preprocess: Preprocess,
    /// Go on behind this one.
    pub after: Option<Position>,
}

/// A frame that is done, and the way that was gone there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The frame.
    pub frame: usize,
    /// Whether towards the beginning.
    pub reverse: bool,
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A frame on which nothing is known yet.
    Before(usize),
    /// Its prompts are given.
    Prompt(usize),
    /// Objects are followed.
    Track(Position),
}

impl Step {
    pub(super) fn frame(self) -> usize {
        match self {
            Self::Before(frame) | Self::Prompt(frame) | Self::Track(Position { frame, .. }) => frame,
        }
    }
}

impl Course {
    fn all_first(&self, prompts: &Prompts) -> bool {
        (self.prompts_first || self.direction == Direction::Both) && prompts.len() > 1
    }

    /// Whether a stream cannot serve this course: frames are wanted in another order than they come.
    pub fn needs_any_order(&self, prompts: &Prompts) -> bool {
        self.direction != Direction::Forward || self.all_first(prompts)
    }

    /// Finds out before the work whether this can be done, as far as is known of the clip.
    ///
    /// # Errors
    /// `Argument` for a course or a prompt outside of the clip, prompts that no picture could satisfy, or no prompt.
    pub fn check(&self, prompts: &Prompts, clip: &Clip) -> Result<()> {
        let Self { from, to, .. } = *self;
        let (width, height) = clip.size();
        ensure!(!prompts.is_empty(), Argument, "there is no prompt");
        let last = match clip.length() {
            Length::Exact(n) => Some(n - 1),
            Length::About(_) | Length::Unknown => None,
        };
        let outside = |frame: usize| last.is_some_and(|last| frame > last);
        ensure!(
            !outside(from),
            Argument,
            "the clip has frames 0 to {}: it cannot be begun at {from}",
            last.unwrap_or(0)
        );
        ensure!(to.is_none_or(|to| from <= to), Argument, "frames {from} to {} are none", to.unwrap_or(0));
        for (&frame, given) in prompts {
            ensure!(
                !outside(frame),
                Argument,
                "the clip has frames 0 to {}: a prompt is on frame {frame}",
                last.unwrap_or(0)
            );
            let within = from <= frame && to.is_none_or(|to| frame <= to);
            ensure!(within, Argument, "the prompt on frame {frame} is not among the frames that are followed");
            for (object, given) in given {
                match given {
                    Given::Points(prompt) => {
                        prompt.check_inside(width, height).map_err(|e| e.context(told(*object, frame)))?
                    }
                    Given::Mask(mask) => {
                        ensure!(!mask.is_empty(), Argument, "{}: the mask is empty", told(*object, frame))
                    }
                }
            }
        }
        Ok(())
    }

    /// What is done, in order. `end` is where the clip ends, as soon as it is known.
    pub(super) fn steps(&self, prompts: &Prompts, end: Arc<AtomicUsize>) -> impl Iterator<Item = Step> + Send + use<> {
        let Self { direction, from, to, after, .. } = *self;
        let first = prompts.keys().next().copied().unwrap_or(from);
        let last = prompts.keys().next_back().copied().unwrap_or(from);
        let given: Vec<usize> =
            if after.is_none() && self.all_first(prompts) { prompts.keys().copied().collect() } else { vec![] };
        // What is to come of the way to the end, and of the way back.
        let (next, back) = match after {
            None => (0, usize::MAX),
            Some(Position { frame, reverse: false }) => (frame + 1, usize::MAX),
            Some(Position { frame, reverse: true }) => (usize::MAX, frame),
        };
        let before = if direction == Direction::Forward { from.max(next)..first } else { 0..0 };
        let forward = match direction {
            Direction::Reverse => 0..0,
            Direction::Forward | Direction::Both => first.max(next)..to.map_or(usize::MAX, |to| to.saturating_add(1)),
        };
        let reverse = match direction {
            Direction::Forward => 0..0,
            Direction::Reverse => from..back.min(last + 1),
            Direction::Both => from..back.min(first),
        };
        let track = |reverse| move |frame| Step::Track(Position { frame, reverse });
        let still = move |step: &Step| step.frame() < end.load(Ordering::SeqCst);
        let forward = before.map(Step::Before).chain(forward.map(track(false))).take_while(still);
        given.into_iter().map(Step::Prompt).chain(forward).chain(reverse.rev().map(track(true)))
    }

    /// Takes out the prompts that were given up to [`after`](Self::after).
    pub(super) fn forget_given(&self, prompts: &mut Prompts) {
        let Some(after) = self.after else { return };
        let all = self.all_first(prompts) || self.direction == Direction::Both;
        prompts.retain(|frame, _| match self.direction {
            _ if all => false,
            Direction::Reverse => *frame < after.frame,
            Direction::Forward | Direction::Both => *frame > after.frame,
        });
    }

    /// How many frames are reported, of a clip of `length`, if that can be told.
    pub fn total(&self, prompts: &Prompts, length: Length) -> Option<usize> {
        let length = match length {
            Length::Exact(n) | Length::About(n) => n,
            Length::Unknown => match (self.direction, self.to) {
                (Direction::Reverse, _) => usize::MAX,
                (_, Some(to)) => to.saturating_add(1),
                (_, None) => return None,
            },
        };
        let steps = self.steps(prompts, Arc::new(AtomicUsize::new(length)));
        Some(steps.filter(|step| !matches!(step, Step::Prompt(_))).count())
    }
}

pub(super) fn told(object: u32, frame: usize) -> String {
    format!("object {object} on frame {frame}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps as text: `-` a frame before, `?` prompts, `>` and `<` followed.
    fn steps(course: &str, prompted: &[usize], after: Option<(usize, bool)>) -> String {
        let [from, to, direction] = course.split(' ').collect::<Vec<_>>()[..] else { panic!("{course}") };
        let course = Course {
            direction: match direction {
                ">" => Direction::Forward,
                "<" => Direction::Reverse,
                _ => Direction::Both,
            },
            from: from.parse().unwrap(),
            to: to.parse().ok(),
            prompts_first: direction == "?",
            after: after.map(|(frame, reverse)| Position { frame, reverse }),
            ..Course::default()
        };
        let prompts: Prompts = prompted.iter().map(|&f| (f, vec![])).collect();
        let end = Arc::new(AtomicUsize::new(usize::MAX));
        let mut text = String::new();
        for step in course.steps(&prompts, end.clone()) {
            if step.frame() == 6 {
                end.store(6, Ordering::SeqCst);
                continue;
            }
            text += &match step {
                Step::Before(frame) => format!("-{frame}"),
                Step::Prompt(frame) => format!("?{frame}"),
                Step::Track(Position { frame, reverse }) => format!("{}{frame}", if reverse { '<' } else { '>' }),
            };
        }
        let total = course.total(&prompts, Length::Exact(6)).unwrap();
        assert_eq!(total, text.chars().filter(|c| "-<>".contains(*c)).count(), "{text}");
        text
    }

    #[test]
    fn frames_come_in_the_order_of_the_direction() {
        for (course, prompted, expected) in [
            ("0 . >", &[2][..], "-0-1>2>3>4>5"),
            ("1 3 >", &[2, 3], "-1>2>3"),
            ("0 . <", &[2, 4], "<4<3<2<1<0"),
            ("1 3 <", &[3], "<3<2<1"),
            ("0 . <>", &[2], ">2>3>4>5<1<0"),
            ("1 4 <>", &[2, 4], "?2?4>2>3>4<1"),
            ("0 . <>", &[0], ">0>1>2>3>4>5"),
        ] {
            assert_eq!(steps(course, prompted, None), expected, "{course} {prompted:?}");
            // Whatever frame it is cut after, the rest is the rest.
            let places: Vec<usize> = expected.match_indices(['-', '<', '>']).map(|(i, _)| i).collect();
            for &at in &places {
                let reverse = expected[at..].starts_with('<');
                let after = expected[at + 1..at + 2].parse().unwrap();
                assert_eq!(
                    steps(course, prompted, Some((after, reverse))),
                    expected[at + 2..],
                    "{course} after {after}"
                );
            }
        }
    }
}
