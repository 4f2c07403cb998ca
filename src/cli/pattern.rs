//! Names of output files.

use super::failure::{Failure, Outcome};
use impasto::{Error, ErrorKind, image::output};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// The path of an output; `{stem}` in it stands for the picture's name without its extension.
#[derive(Debug, Clone)]
pub(super) struct Pattern(String);

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Pattern {
    /// The path for a picture of this stem, with numbers put before the extension: `mask.png` to `mask.0.2.png`.
    pub(super) fn path(&self, stem: &str, numbers: &[usize]) -> PathBuf {
        let path = PathBuf::from(self.0.replace("{stem}", stem));
        if numbers.is_empty() {
            return path;
        }
        let numbers: String = numbers.iter().map(|n| format!(".{n}")).collect();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        path.with_file_name(format!("{name}{numbers}{extension}"))
    }
}

/// The name of a picture without folder and extension.
pub(super) fn stem(picture: &Path) -> String {
    picture.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Several pictures need a name for each.
pub(super) fn need_stems<'a>(pictures: usize, patterns: impl Iterator<Item = (&'static str, &'a Pattern)>) -> Outcome {
    for (flag, pattern) in patterns {
        if pictures > 1 && !pattern.0.contains("{stem}") {
            return Err(Failure::Usage(format!(
                "{pictures} pictures cannot share one {flag}: put {{stem}} into it, as in {flag} 'out/{{stem}}.png'"
            )));
        }
    }
    Ok(())
}

/// Finds out before the work whether all files can be written, none twice, and none over an input.
pub(super) fn check(inputs: &[PathBuf], outputs: impl Iterator<Item = PathBuf>) -> Outcome {
    let same = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let inputs: HashMap<PathBuf, &PathBuf> = inputs.iter().map(|p| (same(p), p)).collect();
    let mut seen = HashMap::new();
    for path in outputs {
        let refuse = |why: &str| Err(Error::new(ErrorKind::Argument, format!("{}: {why}", path.display())).into());
        if inputs.contains_key(&same(&path)) {
            return refuse("is an input: it is not overwritten");
        }
        output::check(&path)?;
        // Devices and pipes take any number of outputs.
        let is_file = path.metadata().map_or(true, |m| m.is_file());
        if is_file && seen.insert(path.clone(), ()).is_some() {
            return refuse("two outputs would have this name");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let path = |pattern: &str, numbers: &[usize]| Pattern::from(pattern).path("cat", numbers);
        assert_eq!(path("out/{stem}.png", &[]), Path::new("out/cat.png"));
        assert_eq!(path("mask.png", &[0, 2]), Path::new("mask.0.2.png"));
        assert_eq!(path("a.b/{stem}_mask.tar.webp", &[1]), Path::new("a.b/cat_mask.tar.1.webp"));
        assert_eq!(path("mask", &[1]), Path::new("mask.1"));
        assert_eq!(stem(Path::new("a/b.c.png")), "b.c");
    }

    #[test]
    fn collisions_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("in.png"), "x").unwrap();
        let check = |outputs: &[&str]| check(&[at("in.png")], outputs.iter().map(|n| at(n)));
        assert!(check(&["a.png", "b.png"]).is_ok());
        assert!(check(&["a.png", "a.png"]).is_err());
        assert!(check(&["in.png"]).is_err());
        assert!(check(&["none/a.png"]).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let one = Pattern::from("a.png");
        assert!(matches!(need_stems(2, [("-o", &one)].into_iter()), Err(Failure::Usage(_))));
        assert!(need_stems(1, [("-o", &one)].into_iter()).is_ok());
    }
}
