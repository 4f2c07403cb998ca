//! A session in a file: what it remembers of the objects.

use super::{
    bank::Id,
    choice::Choice,
    directions::Directions,
    object::{Entry, Object},
    recall::History,
    session::{LAST_FRAME, Session},
};
use crate::{
    error::{Context, ErrorKind, IntoError, Result, bail, ensure},
    graph::Control,
    models::sam2::{
        predictor::Behaviour,
        prompt::{Point, Prompt},
    },
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Of this form.
const VERSION: u32 = 1;
/// Metadata key of the [`Header`].
const HEADER: &str = "session";
/// The largest frame, in pixels: what a file says is allocated for.
const MAX_PIXELS: usize = 1 << 29;
/// What a file is that this module did not write.
const NOT: &str = "not a session that impasto saved";

/// What the tensors belong to.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    /// Tells the weights: memories of another model are nonsense.
    model: String,
    /// Of the picture that the encoder sees.
    side: usize,
    rules: Kept,
    /// Of frames.
    size: Option<(usize, usize)>,
    objects: Vec<Followed>,
}

/// The options that decide what is remembered and recalled.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    raw: bool,
    holes: u64,
    bf16: bool,
    corrections_condition: bool,
    mask_prompts: String,
    stride: usize,
    frames: Option<usize>,
}

/// An object. Rows of the tensors are its `prompted` frames, then its `tracked` ones, then the next object's.
#[derive(Debug, Serialize, Deserialize)]
struct Followed {
    id: u32,
    prompted: Vec<usize>,
    tracked: Vec<usize>,
    prompts: Vec<Asked>,
    directions: Directions,
}

/// The points and the box of a frame.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    frame: usize,
    points: Vec<(f32, f32, bool)>,
    bounds: Option<[f32; 4]>,
}

/// A file, checked.
struct Saved {
    header: Header,
    /// `(rows, cells * dim)`.
    memories: Vec<f32>,
    /// A row each.
    choices: Vec<Choice>,
}

impl Session {
    /// A safetensors file of all that is remembered: of every object its prompts, memories, masks and pointers. What was
    /// prompted on the present frame is remembered first; the frame itself is not kept.
    ///
    /// # Errors
    /// `OutOfMemory`, `Cancelled`, and what the device reports.
    pub async fn save(&mut self, control: Control<'_>) -> Result<Vec<u8>> {
        self.commit(control).await?;
        let entries = || self.objects.iter().flat_map(|o| o.history.entries());
        let ids: Vec<Id> = entries().map(|entry| entry.memory).collect();
        let memories = self.bank.read(&self.gpu, &ids).await.context(|| "reading memories")?;
        let choices = || entries().map(|entry| &entry.choice);
        let masks: Vec<f32> = choices().flat_map(|c| &c.low).copied().collect();
        let pointers: Vec<f32> = choices().flat_map(|c| &c.pointer).copied().collect();
        let scores: Vec<f32> = choices().flat_map(|c| [c.iou, c.score]).collect();
        let tensors = self
            .shapes(ids.len())
            .into_iter()
            .zip([&*memories, &*masks, &*pointers, &*scores].map(bytemuck::cast_slice));
        let header = serde_json::to_string(&self.header()).error(ErrorKind::Internal, || "cannot write a session")?;
        tensors
            .map(|((name, shape), bytes)| TensorView::new(Dtype::F32, shape, bytes).map(|view| (name, view)))
            .collect::<Result<Vec<_>, _>>()
            .and_then(|views| safetensors::serialize(views, Some(HashMap::from([(HEADER.to_string(), header)]))))
            .error(ErrorKind::Internal, || "cannot write a session")
    }

    /// Goes on where a session of the same weights, image size and options was [saved](Self::save); what is remembered in
    /// this one is forgotten. There is no present frame: the next one is set, or one of those before it, to correct it.
    ///
    /// # Errors
    /// `Input` if the file is of another kind, damaged, or of other weights or options; then nothing has changed.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let Saved { header, memories, choices } = self.check(bytes)?;
        self.reset();
        let each = (memories.len() / choices.len().max(1)).max(1);
        let memories = memories.chunks(each).map(|memory| self.bank.put(memory)).collect::<Vec<Id>>();
        let mut entries = memories.into_iter().zip(choices).map(|(memory, choice)| Arc::new(Entry { memory, choice }));
        for o in header.objects {
            let prompts = o.prompts.iter().map(|asked| (asked.frame, asked.prompt())).collect();
            // Frames end first, so that no row is lost.
            let prompted = o.prompted.into_iter().zip(entries.by_ref()).collect();
            let history = History { prompted, tracked: o.tracked.into_iter().zip(entries.by_ref()).collect() };
            self.objects.push(Object { prompts, history, tracked: o.directions, ..Object::new(o.id) });
        }
        self.size = header.size;
        Ok(())
    }

    fn header(&self) -> Header {
        let followed = |o: &Object| Followed {
            id: o.id,
            prompted: o.history.prompted.iter().map(|(t, _)| *t).collect(),
            tracked: o.history.tracked.keys().copied().collect(),
            prompts: o.prompts.iter().map(|(frame, prompt)| Asked::new(*frame, prompt)).collect(),
            directions: o.tracked.clone(),
        };
        Header {
            version: VERSION,
            model: self.digest.clone(),
            side: self.image.side,
            rules: self.kept(),
            size: self.size,
            objects: self.objects.iter().map(followed).collect(),
        }
    }

    fn kept(&self) -> Kept {
        let o = &self.options;
        Kept {
            raw: o.behaviour == Behaviour::Raw,
            holes: o.holes(),
            bf16: o.bf16,
            corrections_condition: o.corrections_condition,
            mask_prompts: format!("{:?}", o.mask_prompts),
            stride: o.stride.max(1),
            frames: o.frames,
        }
    }

    /// Names and shapes of the tensors.
    fn shapes(&self, rows: usize) -> [(&'static str, Vec<usize>); 4] {
        let (side, d) = (self.image.side, self.image.config.hidden);
        [
            ("memories", vec![rows, (side / 16).pow(2), self.memory.dim]),
            ("masks", vec![rows, side / 4, side / 4]),
            ("pointers", vec![rows, d]),
            ("iou_and_score", vec![rows, 2]),
        ]
    }

    /// What `bytes` hold, if this session can go on with it.
    fn check(&self, bytes: &[u8]) -> Result<Saved> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).error(ErrorKind::Input, || NOT)?;
        let file = SafeTensors::deserialize(bytes).error(ErrorKind::Input, || NOT)?;
        let Some(json) = metadata.metadata().as_ref().and_then(|m| m.get(HEADER)) else { bail!(Input, "{NOT}") };
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let Form { version } = serde_json::from_str(json).error(ErrorKind::Input, || NOT)?;
        ensure!(version == VERSION, Input, "the saved session is of version {version}, this impasto reads {VERSION}");
        let header: Header = serde_json::from_str(json).error(ErrorKind::Input, || NOT)?;
        let own = self.header();
        ensure!(header.model == own.model, Input, "the session was saved with other weights");
        ensure!(
            header.side == own.side,
            Input,
            "the session was saved at an image size of {}, this one has {}",
            header.side,
            own.side
        );
        ensure!(
            header.rules == own.rules,
            Input,
            "the session was saved with other options: {:?}, this one has {:?}",
            header.rules,
            own.rules
        );
        header.check()?;
        let rows = header.objects.iter().map(|o| o.prompted.len() + o.tracked.len()).sum();
        let [memories, masks, pointers, scores] = self.shapes(rows).map(|(name, shape)| values(&file, name, &shape));
        let (memories, masks, pointers, scores) = (memories?, masks?, pointers?, scores?);
        let (low, d) = ((self.image.side / 4).pow(2), self.image.config.hidden);
        let choices = masks.chunks(low).zip(pointers.chunks(d)).zip(scores.chunks(2));
        let choices = choices.map(|((low, pointer), scores)| Choice {
            low: low.to_vec(),
            iou: scores[0],
            score: scores[1],
            pointer: pointer.to_vec(),
        });
        Ok(Saved { choices: choices.collect(), header, memories })
    }
}

impl Header {
    /// What the present session has no part in.
    fn check(&self) -> Result<()> {
        let size = self.size.unwrap_or((1, 1));
        let pixels = size.0.saturating_mul(size.1);
        ensure!((1..=MAX_PIXELS).contains(&pixels), Input, "{NOT}: frames of {}x{}", size.0, size.1);
        let mut ids = BTreeSet::new();
        for o in &self.objects {
            ensure!(ids.insert(o.id), Input, "{NOT}: object {} is there twice", o.id);
            let frames: BTreeSet<usize> = o.prompted.iter().chain(&o.tracked).copied().collect();
            let distinct = frames.len() == o.prompted.len() + o.tracked.len();
            let low = frames.last().is_none_or(|t| *t <= LAST_FRAME) && o.prompts.iter().all(|p| p.frame <= LAST_FRAME);
            ensure!(distinct && low && o.directions.is_valid(LAST_FRAME), Input, "{NOT}: frames of object {}", o.id);
            for asked in &o.prompts {
                let inside = asked.prompt().check_inside(size.0, size.1);
                inside.error(ErrorKind::Input, || format!("{NOT}: frame {} of object {}", asked.frame, o.id))?;
            }
        }
        Ok(())
    }
}

impl Asked {
    fn new(frame: usize, prompt: &Prompt) -> Self {
        let points = prompt.points.iter().map(|p| (p.x, p.y, p.positive)).collect();
        Self { frame, points, bounds: prompt.bounds }
    }

    fn prompt(&self) -> Prompt {
        let points = self.points.iter().map(|&(x, y, positive)| Point { x, y, positive }).collect();
        Prompt { points, bounds: self.bounds, mask: None }
    }
}

/// A tensor of this shape, finite.
fn values(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let t = file.tensor(name).error(ErrorKind::Input, || NOT)?;
    ensure!(
        t.dtype() == Dtype::F32 && t.shape() == shape,
        Input,
        "{NOT}: {name} is {:?} {:?}, not F32 {shape:?}",
        t.dtype(),
        t.shape()
    );
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(t.data());
    ensure!(values.iter().all(|v| v.is_finite()), Input, "{NOT}: {name} holds NaN or infinity");
    Ok(values)
}
