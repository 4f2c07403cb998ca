//! What a model asks of a checkpoint as a whole.

use super::Weights;
use crate::error::{Result, bail};

impl Weights {
    /// Opens a checkpoint, and the text of the `config.json` beside it if there is one. Beside a single file may lie that
    /// of something else: it counts if `is_ours` says so. In a model's folder it is the model's.
    ///
    /// # Errors
    /// Those of [`Weights::open`]; `Io` if the `config.json` cannot be read.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_with_config(
        path: &std::path::Path,
        is_ours: impl FnOnce(&str) -> bool,
    ) -> Result<(Self, Option<String>)> {
        use crate::error::{ErrorKind, IntoError};
        let weights = Self::open(path)?;
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(std::path::Path::new("")) };
        let file = folder.join("config.json");
        if !file.is_file() {
            return Ok((weights, None));
        }
        let json =
            std::fs::read_to_string(&file).error(ErrorKind::Io, || format!("cannot read '{}'", file.display()))?;
        Ok((weights, Some(json).filter(|json| path.is_dir() || is_ours(json))))
    }

    /// The `N` axes of the tensor `name` below this place.
    ///
    /// # Errors
    /// `Weights` if there is no such tensor, or it has another number of axes.
    pub fn axes<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let tensor = self.tensor(name)?;
        match tensor.shape().try_into() {
            Ok(axes) => Ok(axes),
            Err(_) => bail!(
                Weights,
                "{}: tensor '{}' has the shape {:?}, not one of {N} axes",
                self.origin(),
                tensor.name(),
                tensor.shape()
            ),
        }
    }

    /// All of these tensors are there, in their shapes.
    ///
    /// # Errors
    /// `Weights`: tells of the first that is not, and of how many more there are.
    pub fn expect<'a>(&self, tensors: impl Iterator<Item = &'a (String, Vec<usize>)> + Clone) -> Result<()> {
        let bad = |(name, shape): &&(String, Vec<usize>)| self.shape(name).is_none_or(|found| found != *shape);
        let Some((name, shape)) = tensors.clone().find(bad) else { return Ok(()) };
        let said = match tensors.clone().filter(bad).count() {
            1 => "a tensor is not as it should be".to_string(),
            n => format!("{n} of {} tensors are not as they should be; the first", tensors.count()),
        };
        match self.get(name, shape) {
            Err(e) => Err(e.context(said)),
            Ok(_) => bail!(Internal, "tensor '{name}' was not as it should be a moment ago"),
        }
    }
}
