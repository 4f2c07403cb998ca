//! Objects followed from frame to frame. After `SAM2VideoPredictor` (`sam2/sam2_video_predictor.py`).

use super::{
    bank::Bank,
    choice::Choice,
    device::{Item, Recipe},
    graphs::Graphs,
    model::VideoModel,
    object::{Object, Recalled},
    options::Options,
    recall::Rules,
    tracked::Tracked,
};
use crate::{
    error::{Context, Result, bail, ensure},
    gpu::Gpu,
    graph::{BindOptions, Bound, Control, Graph, SlotPool, Value},
    image::Picture,
    models::sam2::{
        config::{Config, Memory},
        model::{EmbeddingTensors, Model},
        predictor::Predictor,
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
    /// Tells the weights.
    pub(super) digest: String,
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

/// Frames have lower numbers, or this one: others are counted from them.
pub(super) const LAST_FRAME: usize = i32::MAX as usize;

/// What is asked of an object on the present frame.
pub(super) struct Question<'a> {
    /// The object.
    pub(super) id: u32,
    pub(super) points: Option<&'a Prompt>,
    /// Logits `(low, low)` to refine.
    pub(super) mask: Option<Vec<f32>>,
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
            digest: weights.digest()?,
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
        ensure!(index <= LAST_FRAME, Argument, "frame {index}: the last that can be is {LAST_FRAME}");
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

    /// Where every object is on the present frame: as prompted on conditioning frames, and followed there on others, from
    /// frames before it or, with `reverse`, behind it. Objects go through the device in sets, 16 at 1024 pixels and more of them
    /// where frames are smaller; however many are in a set, it takes as many dispatches.
    ///
    /// # Errors
    /// `Argument` before a frame is there, and for an object whose prompts were all cleared; `Numeric`, `Cancelled`, and what
    /// the device reports.
    pub async fn track(&mut self, reverse: bool, control: Control<'_>) -> Result<Vec<Tracked>> {
        let (frame, _) = self.present()?;
        self.commit(control).await?;
        let followed = |&i: &usize| self.objects[i].prompted(frame).is_none();
        let objects: Vec<usize> = (0..self.objects.len()).filter(followed).collect();
        let recall = |&i: &usize| self.recall(i, frame, reverse);
        let recalls: Vec<Recalled> = objects.iter().map(recall).collect::<Result<_>>()?;
        let most = self.most(self.base(&recalls));
        for (objects, recalls) in objects.chunks(most).zip(recalls.chunks(most)) {
            let question = |&i: &usize| Question { id: self.objects[i].id, points: None, mask: None };
            let questions: Vec<Question<'_>> = objects.iter().map(question).collect();
            let choices = self.ask(&questions, (self.base(recalls), recalls), control).await?;
            let item = |(object, choice): (&usize, Choice)| Item { object: *object, choice, mask: None };
            self.remember(objects.iter().zip(choices).map(item).collect(), Recipe::Tracked, control).await?;
        }
        let rules = self.rules();
        for object in &mut self.objects {
            object.tracked.insert(frame, reverse);
            for entry in object.history.forget(frame, &rules) {
                self.bank.give(entry.memory);
            }
        }
        let found = self.objects.iter().map(|o| match o.known(frame, true) {
            Some(choice) => Ok(self.tracked(o.id, choice.clone())),
            None => bail!(Internal, "object {} was not tracked", o.id),
        });
        let mut found = found.collect::<Result<Vec<_>>>()?;
        if self.options.non_overlap {
            Tracked::without_overlap(&mut found)?;
        }
        Ok(found)
    }

    /// The next frame of a stream: [`set_frame`](Self::set_frame), then [`track`](Self::track). Without objects nothing is
    /// found. To prompt objects on this frame before they are tracked, call the two with the prompts in between.
    ///
    /// # Errors
    /// Those of both.
    pub async fn step(
        &mut self,
        index: usize,
        picture: &Picture,
        reverse: bool,
        control: Control<'_>,
    ) -> Result<Vec<Tracked>> {
        self.set_frame(index, picture, control).await?;
        self.track(reverse, control).await
    }

    /// Takes an object out. Others do not change. Says whether there was one.
    pub fn remove(&mut self, id: u32) -> bool {
        let Some(at) = self.objects.iter().position(|o| o.id == id) else { return false };
        let object = self.objects.remove(at);
        object.memories().into_iter().for_each(|memory| self.bank.give(memory));
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

    pub(super) fn present(&self) -> Result<(usize, (usize, usize))> {
        match (self.frame, self.size) {
            (Some(frame), Some(size)) => Ok((frame, size)),
            _ => bail!(Argument, "no frame is there yet"),
        }
    }

    pub(super) fn rules(&self) -> Rules {
        let (m, o) = (&self.memory, &self.options);
        Rules {
            slots: m.slots,
            pointers: m.pointers,
            prompted: m.max_cond_frames,
            stride: o.stride.max(1),
            frames: o.frames,
            kept: o.kept_frames,
        }
    }

    pub(super) fn bind_options(&self) -> BindOptions {
        BindOptions { pool: Some(self.pool.clone()), budget: self.options.max_bytes, ..BindOptions::default() }
    }
}
