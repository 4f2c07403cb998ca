//! An object that is followed, as the host knows it.

use super::{
    bank::Id,
    choice::Choice,
    directions::Directions,
    recall::{History, Recall},
};
use crate::models::sam2::prompt::Prompt;
use std::{collections::BTreeMap, sync::Arc};

/// An object on a frame, remembered.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its memory in the bank.
    pub(super) memory: Id,
    /// With holes filled.
    pub(super) choice: Choice,
}

/// What an object attends to.
pub(super) type Recalled = Recall<Arc<Entry>>;

/// An answer to a prompt on the present frame, which is remembered when the frame is left or tracked.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// Of a conditioning frame.
    pub(super) conditioning: bool,
    /// With holes filled.
    pub(super) choice: Choice,
    /// A mask prompt `(side, side)`, of which the memory is made in place of the choice's mask.
    pub(super) mask: Option<Arc<[f32]>>,
}

/// An object.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) id: u32,
    /// Points and boxes by frame, to which further clicks are added.
    pub(super) prompts: BTreeMap<usize, Prompt>,
    pub(super) pending: Option<Pending>,
    pub(super) history: History<Arc<Entry>>,
    pub(super) tracked: Directions,
}

impl Object {
    pub(super) fn new(id: u32) -> Self {
        Self {
            id,
            prompts: BTreeMap::new(),
            pending: None,
            history: History::default(),
            tracked: Directions::default(),
        }
    }

    /// The object on a conditioning frame.
    pub(super) fn prompted(&self, frame: usize) -> Option<&Arc<Entry>> {
        self.history.prompted.iter().find(|(t, _)| *t == frame).map(|(_, entry)| entry)
    }

    /// What is known of the object on `frame`, which a further click refines.
    pub(super) fn known(&self, frame: usize, conditioning: bool) -> Option<&Choice> {
        let pending = self.pending.as_ref().filter(|p| p.conditioning == conditioning).map(|p| &p.choice);
        let entry = || self.prompted(frame).or_else(|| self.history.tracked.get(&frame)).map(|entry| &entry.choice);
        pending.or_else(entry)
    }

    /// Remembers the object on `frame`. Gives the memories that this makes useless.
    pub(super) fn remember(&mut self, frame: usize, conditioning: bool, entry: Entry) -> Vec<Id> {
        let entry = Arc::new(entry);
        let mut gone: Vec<Arc<Entry>> = Vec::new();
        if conditioning {
            // A frame is one or the other.
            gone.extend(self.history.tracked.remove(&frame));
            match self.history.prompted.iter_mut().find(|(t, _)| *t == frame) {
                Some((_, old)) => gone.push(std::mem::replace(old, entry)),
                None => self.history.prompted.push((frame, entry)),
            }
        } else if self.prompted(frame).is_some() {
            // As the reference's preflight: what is on a conditioning frame stays.
            gone.push(entry);
        } else {
            gone.extend(self.history.tracked.insert(frame, entry));
        }
        gone.iter().map(|entry| entry.memory).collect()
    }

    /// Its conditioning frame `frame` counts as one that was never tracked, of which there is a memory. After
    /// `clear_all_prompts_in_frame`. Says whether there was one.
    pub(super) fn downgrade(&mut self, frame: usize) -> bool {
        let Some(at) = self.history.prompted.iter().position(|(t, _)| *t == frame) else { return false };
        let (_, entry) = self.history.prompted.remove(at);
        self.history.tracked.insert(frame, entry);
        self.tracked.remove(frame);
        true
    }

    /// All memories of it.
    pub(super) fn memories(&self) -> Vec<Id> {
        self.history.entries().map(|entry| entry.memory).collect()
    }
}
