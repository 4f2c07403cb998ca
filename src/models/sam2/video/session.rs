//! Objects followed from frame to frame. After `SAM2VideoPredictor` (`sam2/sam2_video_predictor.py`).

use super::{
    bank::Bank,
    device::{Item, Recipe},
    graphs::Graphs,
    model::{Base, VideoModel},
    object::{Object, Pending, Recalled},
    options::{MaskPrompts, Options, Tracked},
    recall::Rules,
};
use crate::{
    error::{Context, Result, bail, ensure},
    gpu::Gpu,
    graph::{BindOptions, Bound, Control, Graph, SlotPool, Value},
    image::{Mask, Picture, resize},
    models::sam2::{
        config::{Config, Memory},
        model::{EmbeddingTensors, Model},
        predictor::{Predictor, token_count},
        prompt::Prompt,
    },
    nn::Loader,
    weights::Weights,
};

/// SAM 2 on a clip or a stream: one frame at a time is on the device, and of the others what is remembered of the objects.
///
/// Frames are numbered by the caller. [`set_frame`](Self::set_frame) makes a frame the present one; prompts are for the
/// present frame; [`track`](Self::track) tells where every object is on it. Memory does not grow with the frames: what no
/// later frame can attend to is forgotten.
#[derive(Debug)]
pub struct Session {
    pub(super) gpu: Gpu,
    pub(super) image: Model,
    pub(super) video: VideoModel,
    pub(super) memory: Memory,
    pub(super) options: Options,
    pool: SlotPool,
    pub(super) embedding: EmbeddingTensors,
    encoder: Option<(Bound, Value)>,
    pub(super) graphs: Graphs,
    pub(super) bank: Bank,
    pub(super) objects: Vec<Object>,
    /// The present frame.
    pub(super) frame: Option<usize>,
    /// Width and height of frames.
    pub(super) size: Option<(usize, usize)>,
}

/// What is asked of an object on the present frame.
pub(super) struct Question<'a> {
    pub(super) object: usize,
    pub(super) points: Option<&'a Prompt>,
    /// Logits `(low, low)` to refine.
    pub(super) mask: Option<Vec<f32>>,
}

/// Objects of one shape.
struct Group {
    base: Base,
    objects: Vec<usize>,
    recalls: Vec<Recalled>,
}

impl Session {
    /// A session from the weights of a model with memory.
    ///
    /// # Errors
    /// `Weights` if they do not fit the configuration or have no memory, `Argument` for an image size that the stride
    /// forbids, and what the device reports.
    pub async fn new(gpu: &Gpu, config: Config, weights: &Weights, options: Options) -> Result<Self> {
        let side = options.image_size.unwrap_or(config.image_size);
        let l = Loader { gpu, storage: options.storage };
        let loading = || format!("loading {}", weights.origin());
        let video = VideoModel::load(&l, weights, &config, side).context(loading)?;
        let Some(memory) = config.memory.clone() else { bail!(Internal, "a video model without memory") };
        let image = Model::load(gpu, weights, config, side, options.storage).await.context(loading)?;
        let embedding = image.embedding(gpu)?;
        let bank = Bank::new(gpu, memory.slots + 1, [(side / 16).pow(2), memory.dim])?;
        Ok(Self {
            gpu: gpu.clone(),
            image,
            video,
            memory,
            options,
            pool: SlotPool::default(),
            embedding,
            encoder: None,
            graphs: Graphs::default(),
            bank,
            objects: Vec::new(),
            frame: None,
            size: None,
        })
    }

    /// The objects, in the order in which they were first prompted.
    pub fn objects(&self) -> impl Iterator<Item = u32> + '_ {
        self.objects.iter().map(|o| o.id)
    }

    /// The present frame.
    pub fn frame(&self) -> Option<usize> {
        self.frame
    }

    /// Encodes a frame, which is the present one from now on.
    ///
    /// # Errors
    /// `Input` for a frame of another size than those before, `OutOfMemory`, `Cancelled`, and what the device reports.
    pub async fn set_frame(&mut self, index: usize, picture: &Picture, control: Control<'_>) -> Result<()> {
        let pixels = Predictor::preprocess(picture, self.image.side)?;
        self.set_pixels(index, &pixels, (picture.width(), picture.height()), control).await
    }

    /// The same for a [preprocessed](Predictor::preprocess) frame that was `size` large.
    ///
    /// # Errors
    /// As [`set_frame`](Self::set_frame), and `Shape` for the wrong number of values.
    pub async fn set_pixels(
        &mut self,
        index: usize,
        pixels: &[f32],
        size: (usize, usize),
        control: Control<'_>,
    ) -> Result<()> {
        let known = *self.size.get_or_insert(size);
        ensure!(
            known == size,
            Input,
            "frame {index} is {}x{}, those before it are {}x{}",
            size.0,
            size.1,
            known.0,
            known.1
        );
        // What was prompted is remembered while its features are still there.
        self.commit(control).await?;
        self.frame = None;
        if self.encoder.is_none() {
            let (g, image) = self.image.record_encode(Graph::new(self.gpu.target()), &self.embedding)?;
            self.encoder = Some((g.plan()?.bind(&self.gpu, &self.bind_options())?, image));
        }
        let Some((bound, image)) = &mut self.encoder else { bail!(Internal, "no encoder") };
        let input = (*image, bytemuck::cast_slice(pixels));
        bound.run(&[input], &[], control).await.context(|| format!("encoding frame {index}"))?;
        self.frame = Some(index);
        Ok(())
    }

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
        let object = self.object(id);
        let o = &mut self.objects[object];
        let earlier = o.prompts.remove(&frame).filter(|_| more);
        let mut whole = earlier.unwrap_or_default();
        whole.bounds = whole.bounds.or(prompt.bounds);
        whole.points.extend(&prompt.points);
        o.prompts.insert(frame, whole.clone());

        let (direction, conditioning) = self.standing(object, frame);
        let known = self.objects[object].known(frame, conditioning);
        let mask = known.map(|choice| choice.low.iter().map(|l| l.clamp(-32.0, 32.0)).collect());
        let question = Question { object, points: Some(&whole), mask };
        let choice = match direction {
            None => self.ask(&[question], (Base::Image, &[]), control).await?,
            Some(reverse) => {
                let recall = self.recall(object, frame, reverse)?;
                self.ask(&[question], (self.base(&recall), &[recall]), control).await?
            }
        };
        let Some(choice) = choice.into_iter().next() else { bail!(Internal, "a prompt without an answer") };
        self.answer(object, Pending { conditioning, choice, mask: None })
    }

    /// Prompts an object by its mask on the present frame, of any size. The mask itself is the answer.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub async fn prompt_mask(&mut self, id: u32, mask: &Mask, control: Control<'_>) -> Result<Tracked> {
        let (frame, _) = self.present()?;
        let side = self.image.side;
        let object = self.object(id);
        self.objects[object].prompts.remove(&frame);
        let (_, conditioning) = self.standing(object, frame);
        let soft = resize::antialias_mask(mask, side, side)?;
        let hard: Vec<f32> = soft.iter().map(|m| f32::from(u8::from(*m >= 0.5))).collect();
        let question = Question { object, points: None, mask: Some(self.video.downsample_mask(&hard, side)) };
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
        self.answer(object, Pending { conditioning, choice, mask })
    }

    /// Where every object is on the present frame: as prompted on conditioning frames, and followed there on others, from
    /// frames before it or, with `reverse`, behind it.
    ///
    /// # Errors
    /// `Argument` before a frame is there, and for an object whose prompts were all cleared; `Numeric`, `Cancelled`, and what
    /// the device reports.
    pub async fn track(&mut self, reverse: bool, control: Control<'_>) -> Result<Vec<Tracked>> {
        let (frame, _) = self.present()?;
        self.commit(control).await?;
        // Objects that attend to as much go through the device together.
        let mut groups: Vec<Group> = Vec::new();
        for object in 0..self.objects.len() {
            if self.objects[object].prompted(frame).is_some() {
                continue;
            }
            let recall = self.recall(object, frame, reverse)?;
            let base = self.base(&recall);
            let most = self.most(base);
            match groups.iter_mut().find(|group| group.base == base && group.objects.len() < most) {
                Some(group) => {
                    group.objects.push(object);
                    group.recalls.push(recall);
                }
                None => groups.push(Group { base, objects: vec![object], recalls: vec![recall] }),
            }
        }
        for Group { base, objects, recalls } in groups {
            let questions: Vec<Question<'_>> =
                objects.iter().map(|&object| Question { object, points: None, mask: None }).collect();
            let choices = self.ask(&questions, (base, &recalls), control).await?;
            let item = |(object, choice)| Item { object, choice, mask: None };
            self.remember(objects.into_iter().zip(choices).map(item).collect(), Recipe::Tracked, control).await?;
        }
        let rules = self.rules();
        for object in &mut self.objects {
            object.tracked.insert(frame, reverse);
            for entry in object.history.forget(frame, &rules) {
                self.bank.give(entry.slot);
            }
        }
        let found = self.objects.iter().map(|o| match o.known(frame, true) {
            Some(choice) => Ok((o.id, choice.clone())),
            None => bail!(Internal, "object {} was not tracked", o.id),
        });
        let found = found.collect::<Result<Vec<_>>>()?;
        found.into_iter().map(|(id, choice)| self.tracked(id, choice)).collect()
    }

    /// Takes an object out. Others do not change. Says whether there was one.
    pub fn remove(&mut self, id: u32) -> bool {
        let Some(at) = self.objects.iter().position(|o| o.id == id) else { return false };
        let object = self.objects.remove(at);
        object.slots().into_iter().for_each(|slot| self.bank.give(slot));
        true
    }

    /// Forgets all objects and frames.
    pub fn reset(&mut self) {
        let ids: Vec<u32> = self.objects().collect();
        for id in ids {
            self.remove(id);
        }
        (self.frame, self.size) = (None, None);
    }

    fn present(&self) -> Result<(usize, (usize, usize))> {
        match (self.frame, self.size) {
            (Some(frame), Some(size)) => Ok((frame, size)),
            _ => bail!(Argument, "no frame is there yet"),
        }
    }

    /// The object of this number.
    fn object(&mut self, id: u32) -> usize {
        match self.objects.iter().position(|o| o.id == id) {
            Some(at) => at,
            None => {
                self.objects.push(Object::new(id));
                self.objects.len() - 1
            }
        }
    }

    /// How `frame` was tracked, if it was, and whether a prompt makes it a conditioning frame.
    fn standing(&self, object: usize, frame: usize) -> (Option<bool>, bool) {
        let direction = self.objects[object].tracked.get(&frame).copied();
        (direction, direction.is_none() || self.options.corrections_condition)
    }

    pub(super) fn rules(&self) -> Rules {
        let (m, o) = (&self.memory, &self.options);
        Rules {
            slots: m.slots,
            pointers: m.pointers,
            prompted: m.max_cond_frames,
            stride: o.stride.max(1),
            frames: o.frames,
        }
    }

    pub(super) fn bind_options(&self) -> BindOptions {
        BindOptions { pool: Some(self.pool.clone()), budget: self.options.max_bytes, ..BindOptions::default() }
    }
}
