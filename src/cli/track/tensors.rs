//! Raw tensors of all frames in one file, which is made without holding them in memory.

use impasto::{
    ErrorKind, Result,
    error::IntoError,
    image::output,
    models::sam2::video::{Tracked, clip::Followed},
};
use serde_json::{Map, Value, json};
use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// A safetensors file whose values wait in a file without a name until the header, which comes before them, is known.
pub(super) struct TensorFile {
    path: PathBuf,
    values: File,
    bytes: u64,
    header: Map<String, Value>,
}

impl TensorFile {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let values = tempfile::tempfile().error(ErrorKind::Io, || "cannot make a temporary file")?;
        Ok(Self { path: path.into(), values, bytes: 0, header: Map::new() })
    }

    /// `fN.low_res_masks (objects, low, low)` and `fN.obj_score (objects)`, in the order of the session. Of a frame without
    /// objects there is nothing.
    pub(super) fn add(&mut self, of: &Followed) -> Result<()> {
        let objects = &of.objects;
        let Some(first) = objects.first() else { return Ok(()) };
        let low = first.low_res.len().isqrt();
        let scores: Vec<f32> = objects.iter().map(|o: &Tracked| o.score).collect();
        let masks: Vec<f32> = objects.iter().flat_map(|o| &o.low_res).copied().collect();
        let frame = of.position.frame;
        self.tensor(format!("f{frame}.low_res_masks"), &[objects.len(), low, low], &masks)?;
        self.tensor(format!("f{frame}.obj_score"), &[objects.len()], &scores)
    }

    fn tensor(&mut self, name: String, shape: &[usize], values: &[f32]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        self.values.write_all(bytes).error(ErrorKind::Io, || "cannot write a temporary file")?;
        let end = self.bytes + bytes.len() as u64;
        self.header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [self.bytes, end] }));
        self.bytes = end;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        let mut header = Value::Object(self.header).to_string();
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        self.values.seek(SeekFrom::Start(0)).error(ErrorKind::Io, || "cannot read a temporary file")?;
        output::write_with(&self.path, |to| {
            to.write_all(&(header.len() as u64).to_le_bytes())?;
            to.write_all(header.as_bytes())?;
            io::copy(&mut self.values, to).map(|_| ())
        })
    }
}
