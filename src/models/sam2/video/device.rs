//! What a session has the device do: questions about the present frame answered, objects remembered.

use super::{
    bank::Id,
    choice::{Choice, choose, multimask},
    graphs::Parts,
    model::{Base, Sizes},
    object::{Entry, Object, Pending, Recalled},
    options::MaskPrompts,
    session::{Question, Session},
    tracked::Tracked,
};
use crate::{
    error::{Context, Result, bail},
    graph::{Control, Value},
    image::components::fill_holes,
    models::sam2::{predictor::token_count, prompt::Prompt, prompt_encoder::Label},
};
use std::sync::Arc;

/// Which of the two ways a memory is made of a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recipe {
    /// Of a prompted frame: from the mask with its holes filled, in the builder's behaviour cut at 0. `true` for a conditioning
    /// frame.
    Prompted(bool),
    /// Of a tracked frame: from the mask as it came.
    Tracked,
}

/// An object that is to be remembered.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) object: usize,
    pub(super) choice: Choice,
    /// The mask that it was prompted by.
    pub(super) mask: Option<Arc<[f32]>>,
}

impl Item {
    fn logits(&self) -> &[f32] {
        self.mask.as_deref().unwrap_or(&self.choice.low)
    }
}

/// What recordings read of a session, beside its graphs: not of a method, which would borrow these, too.
macro_rules! parts {
    ($session:ident) => {
        Parts {
            gpu: &$session.gpu,
            image: &$session.image,
            video: &$session.video,
            embedding: &$session.embedding,
            bank: &$session.bank,
            bf16: $session.options.bf16,
        }
    };
}

/// What objects recall, in the shape that is asked for.
type Recalls<'a> = (Base, &'a [Recalled]);

impl Session {
    /// The answers to questions of one shape.
    pub(super) async fn ask(
        &mut self,
        questions: &[Question<'_>],
        (base, recalls): Recalls<'_>,
        control: Control<'_>,
    ) -> Result<Vec<Choice>> {
        let Some(first) = questions.first() else { return Ok(Vec::new()) };
        let clicks = |q: &Question<'_>| q.points.map_or(0, token_count);
        // Without a point there are two that are none: one that is made up, and the padding behind it.
        let points = clicks(first).max(2);
        let sizes = Sizes { objects: questions.len(), points, mask: first.mask.is_some(), base };
        let tokens: Vec<f32> = questions.iter().flat_map(|q| self.tokens(q.points)).collect();
        let masks: Vec<f32> = questions.iter().filter_map(|q| q.mask.as_ref()).flatten().copied().collect();
        let memories = recalls.iter().flat_map(|recall| &recall.memories);
        self.fetch(&memories.map(|(entry, _)| entry.memory).collect::<Vec<Id>>(), 0).await?;
        let recalled = self.recalled(base, recalls)?;
        let options = self.bind_options();
        let answers = self.graphs.answers(parts!(self), sizes, &options)?;
        let mut inputs: Vec<(Value, &[u8])> = vec![(answers.tokens, bytemuck::cast_slice(&tokens))];
        inputs.extend(answers.mask.map(|v| (v, bytemuck::cast_slice(&masks))));
        for (at, [places, pointers, hidden]) in answers.recalled.iter().zip(&recalled) {
            inputs.push((at.places, bytemuck::cast_slice(places)));
            inputs.extend(at.pointers.map(|v| (v, bytemuck::cast_slice(pointers))));
            inputs.extend(at.mask.map(|v| (v, bytemuck::cast_slice(hidden))));
        }
        let wanted = [answers.found.masks, answers.found.scores, answers.found.pointers];
        let out = answers.bound.run_f32(&inputs, &wanted, control).await.context(|| "decoding a frame")?;
        let tracking = matches!(base, Base::Memories { .. });
        let several = match base {
            // A mask prompt asks for nothing but a pointer.
            Base::Raw => self.options.mask_prompts == MaskPrompts::Transformers,
            _ => multimask(points_of(first.points), tracking, &self.memory),
        };
        let how = (&self.image.config.decoder, self.options.behaviour);
        let n = questions.len();
        let part = |values: &'_ [f32], i: usize| -> std::ops::Range<usize> {
            let each = values.len() / n;
            i * each..(i + 1) * each
        };
        let one = |i: usize| {
            let of = |k: usize| &out[k][part(&out[k], i)];
            let name = || format!("object {}", questions[i].id);
            choose([of(0), of(1), of(2)], several, how, &self.video.no_pointer).context(name)
        };
        (0..n).map(one).collect()
    }

    /// Output tokens and embedded points.
    fn tokens(&self, prompt: Option<&Prompt>) -> Vec<f32> {
        let (side, (width, height)) = (self.image.side, self.size.unwrap_or((1, 1)));
        let (sx, sy) = (side as f32 / width as f32, side as f32 / height as f32);
        let mut tokens = self.image.output_tokens().to_vec();
        let mut add = |x: f32, y: f32, label| {
            tokens.extend(self.image.prompt_encoder.point(x * sx, y * sy, label, side));
        };
        match prompt {
            None => add(0.0, 0.0, Label::None),
            Some(prompt) => {
                if let Some([x0, y0, x1, y1]) = prompt.bounds {
                    add(x0, y0, Label::TopLeft);
                    add(x1, y1, Label::BottomRight);
                }
                for p in &prompt.points {
                    add(p.x, p.y, if p.positive { Label::Positive } else { Label::Negative });
                }
            }
        }
        add(0.0, 0.0, Label::None);
        tokens
    }

    pub(super) fn tracked(&self, id: u32, choice: Choice) -> Tracked {
        let size = self.size.unwrap_or((1, 1));
        Tracked::new(id, choice, self.image.side / 4, size)
    }

    pub(super) fn fill(&self, choice: &mut Choice) -> Result<()> {
        let low = self.image.side / 4;
        fill_holes(&mut choice.low, low, low, self.options.holes())
    }

    /// Remembers what was prompted on the present frame.
    pub(super) async fn commit(&mut self, control: Control<'_>) -> Result<()> {
        for conditioning in [false, true] {
            let due = |pending: &Option<Pending>| pending.as_ref().is_some_and(|p| p.conditioning == conditioning);
            let objects: Vec<usize> = (0..self.objects.len()).filter(|&i| due(&self.objects[i].pending)).collect();
            // Masks that were given are larger than those that were found.
            for given in [false, true] {
                let item = |&i: &usize| {
                    let pending = self.objects[i].pending.as_ref().filter(|p| p.mask.is_some() == given)?;
                    Some(Item { object: i, choice: pending.choice.clone(), mask: pending.mask.clone() })
                };
                let items: Vec<Item> = objects.iter().filter_map(item).collect();
                self.remember(items, Recipe::Prompted(conditioning), control).await?;
            }
            objects.into_iter().for_each(|i| self.objects[i].pending = None);
        }
        Ok(())
    }

    /// Has memories on the device, and room for `new` ones.
    async fn fetch(&mut self, memories: &[Id], new: usize) -> Result<()> {
        // What an object recalls, and the one that is made meanwhile.
        let room = |o: &Object| self.memory.slots + o.history.prompted.len().max(1);
        let slots = self.objects.iter().map(room).sum();
        if self.bank.fetch(&self.gpu, memories, new, slots).await? {
            self.graphs.clear();
        }
        Ok(())
    }

    /// Where a memory that was fetched is.
    pub(super) fn slot(&self, memory: Id) -> Result<f32> {
        let Some(slot) = self.bank.slot(memory) else { bail!(Internal, "a memory that is not on the device") };
        Ok(slot as f32)
    }

    /// Remembers objects on the present frame.
    pub(super) async fn remember(&mut self, items: Vec<Item>, recipe: Recipe, control: Control<'_>) -> Result<()> {
        let Some(frame) = self.frame.filter(|_| !items.is_empty()) else { return Ok(()) };
        for items in items.chunks(self.most_remembered()) {
            self.fetch(&[], items.len()).await?;
            let memories: Vec<Id> = items.iter().filter_map(|_| self.bank.take()).collect();
            let done = self.encode(items, &memories, recipe, control).await;
            if let Err(e) = done {
                memories.into_iter().for_each(|memory| self.bank.give(memory));
                return Err(e);
            }
            for (item, memory) in items.iter().zip(memories) {
                let mut choice = item.choice.clone();
                if recipe == Recipe::Tracked {
                    self.fill(&mut choice)?;
                }
                let conditioning = recipe == Recipe::Prompted(true);
                let gone = self.objects[item.object].remember(frame, conditioning, Entry { memory, choice });
                gone.into_iter().for_each(|memory| self.bank.give(memory));
            }
        }
        Ok(())
    }

    /// Encodes memories of the present frame into the bank, from masks of one size.
    async fn encode(&mut self, items: &[Item], memories: &[Id], recipe: Recipe, control: Control<'_>) -> Result<()> {
        let cut = recipe != Recipe::Tracked && self.options.cuts_prompted_masks();
        let masks: Vec<f32> = items.iter().flat_map(Item::logits).copied().collect();
        let low = (masks.len() / items.len()).isqrt();
        let hard = vec![f32::from(u8::from(cut)); items.len()];
        let mut places = Vec::new();
        for (item, memory) in items.iter().zip(memories) {
            places.extend([self.slot(*memory)?, f32::from(u8::from(item.choice.score <= 0.0))]);
        }
        let options = self.bind_options();
        let remember = self.graphs.remember(parts!(self), [items.len(), low], &options)?;
        let inputs: [(Value, &[u8]); 3] = [
            (remember.masks, bytemuck::cast_slice(&masks)),
            (remember.hard, bytemuck::cast_slice(&hard)),
            (remember.places, bytemuck::cast_slice(&places)),
        ];
        remember.bound.run(&inputs, &[], control).await.context(|| "remembering a frame")?;
        Ok(())
    }
}

/// Points of a prompt; the corners of a box are two.
fn points_of(prompt: Option<&Prompt>) -> usize {
    prompt.map_or(0, |p| p.points.len() + if p.bounds.is_some() { 2 } else { 0 })
}
