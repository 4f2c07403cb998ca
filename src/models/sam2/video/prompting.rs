//! Prompts of objects on the present frame.

use super::{
    model::Base,
    object::{Object, Pending},
    options::MaskPrompts,
    session::{Question, Session},
    tracked::Tracked,
};
use crate::{
    error::{Result, bail, ensure},
    graph::Control,
    image::{Mask, resize},
    models::sam2::{predictor::token_count, prompt::Prompt},
};

impl Session {
    /// Prompts an object on the present frame, a new one if there is none of this number, by points, a box or both; more
    /// points of an object that was prompted there are added to those before with `more`. What is known of the object on
    /// this frame is refined.
    ///
    /// # Errors
    /// `Argument` for a prompt that cannot be meant, or before a frame is there; `Numeric`, `Cancelled`, and what the device
    /// reports.
    pub async fn prompt(&mut self, id: u32, prompt: &Prompt, more: bool, control: Control<'_>) -> Result<Tracked> {
        let (frame, (width, height)) = self.present()?;
        prompt.check_inside(width, height)?;
        ensure!(token_count(prompt) > 0, Argument, "object {id}: a prompt without points or box");
        ensure!(prompt.mask.is_none(), Argument, "object {id}: a mask is a prompt of its own");
        ensure!(
            !more || prompt.bounds.is_none(),
            Argument,
            "object {id}: a box begins a prompt, it cannot be added to one"
        );
        let object = self.find(id);
        let earlier = object.and_then(|i| self.objects[i].prompts.get(&frame)).filter(|_| more);
        let mut whole = earlier.cloned().unwrap_or_default();
        whole.bounds = whole.bounds.or(prompt.bounds);
        whole.points.extend(&prompt.points);

        let (direction, conditioning) = self.standing(object, frame);
        let known = object.and_then(|i| self.objects[i].known(frame, conditioning));
        let mask = known.map(|choice| choice.low.iter().map(|l| l.clamp(-32.0, 32.0)).collect());
        let question = Question { id, points: Some(&whole), mask };
        let choice = match (object, direction) {
            (Some(object), Some(reverse)) => {
                let recall = self.recall(object, frame, reverse)?;
                self.ask(&[question], (self.base(std::slice::from_ref(&recall)), &[recall]), control).await?
            }
            _ => self.ask(&[question], (Base::Image, &[]), control).await?,
        };
        let Some(choice) = choice.into_iter().next() else { bail!(Internal, "a prompt without an answer") };
        self.answer(id, Some(whole), Pending { conditioning, choice, mask: None })
    }

    /// Prompts an object by its mask on the present frame, of any size. The mask itself is the answer.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub async fn prompt_mask(&mut self, id: u32, mask: &Mask, control: Control<'_>) -> Result<Tracked> {
        let (frame, _) = self.present()?;
        let side = self.image.side;
        let (_, conditioning) = self.standing(self.find(id), frame);
        let soft = resize::antialias_mask(mask, side, side)?;
        let hard: Vec<f32> = soft.iter().map(|m| f32::from(u8::from(*m >= 0.5))).collect();
        let question = Question { id, points: None, mask: Some(self.video.downsample_mask(&hard, side)) };
        let answers = self.ask(&[question], (Base::Raw, &[]), control).await?;
        let Some(mut choice) = answers.into_iter().next() else { bail!(Internal, "a prompt without an answer") };
        let logits: Vec<f32> = hard.iter().map(|m| 20.0 * m - 10.0).collect();
        let present = hard.iter().any(|m| *m > 0.0);
        choice.low = resize::antialias_plane(&logits, (side, side), side / 4, side / 4)?;
        (choice.iou, choice.score) = (1.0, if present { 10.0 } else { -10.0 });
        if !present {
            choice.pointer.clone_from(&self.video.no_pointer);
        }
        let mask = (self.options.mask_prompts == MaskPrompts::Transformers).then(|| logits.into());
        self.answer(id, None, Pending { conditioning, choice, mask })
    }

    /// Takes the prompts of an object on a frame back: the points and the box, or the mask. Says whether there were any.
    ///
    /// What the object looked like there stays remembered, as that of a frame that was tracked, until the frame is tracked
    /// anew. An object whose last prompt goes keeps its number and its place, but cannot be tracked before it is prompted
    /// again.
    pub fn clear(&mut self, id: u32, frame: usize) -> bool {
        let present = self.frame == Some(frame);
        let Some(object) = self.objects.iter_mut().find(|o| o.id == id) else { return false };
        let pending = object.pending.take_if(|_| present).is_some();
        let prompted = object.prompts.remove(&frame).is_some();
        object.downgrade(frame) || pending || prompted
    }

    /// The answer to a prompt, kept until the frame is left; `points` as far as more can be added to them.
    fn answer(&mut self, id: u32, points: Option<Prompt>, mut pending: Pending) -> Result<Tracked> {
        let (frame, _) = self.present()?;
        self.fill(&mut pending.choice)?;
        let object = self.find(id).unwrap_or_else(|| {
            self.objects.push(Object::new(id));
            self.objects.len() - 1
        });
        let o = &mut self.objects[object];
        match points {
            Some(points) => o.prompts.insert(frame, points),
            None => o.prompts.remove(&frame),
        };
        let choice = pending.choice.clone();
        o.pending = Some(pending);
        Ok(self.tracked(id, choice))
    }

    /// The object of this number.
    fn find(&self, id: u32) -> Option<usize> {
        self.objects.iter().position(|o| o.id == id)
    }

    /// How `frame` was tracked, if it was, and whether a prompt makes it a conditioning frame.
    fn standing(&self, object: Option<usize>, frame: usize) -> (Option<bool>, bool) {
        let direction = object.and_then(|i| self.objects[i].tracked.get(frame));
        (direction, direction.is_none() || self.options.corrections_condition)
    }
}
