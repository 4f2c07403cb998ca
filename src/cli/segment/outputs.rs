//! The files that `segment` writes.

use super::{
    super::{
        failure::Outcome,
        pattern::{self, Pattern},
        prompts::Object,
    },
    record::MaskRecord,
};
use impasto::{
    ErrorKind, Result,
    error::IntoError,
    image::{
        Mask, Picture,
        draw::{self, Marker},
        output::{self, Format},
    },
    models::sam2::{Embedding, Prediction},
};
use safetensors::{Dtype, tensor::TensorView};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output (in FILE, {stem} is the picture's name without its extension)")]
pub(super) struct Outputs {
    /// The mask, white on black: PNG or WebP
    #[arg(short, long, value_name = "FILE")]
    output: Option<Pattern>,
    /// The picture with masks and prompts drawn on it
    #[arg(long, value_name = "FILE")]
    overlay: Option<Pattern>,
    /// The object with the rest transparent: PNG or WebP
    #[arg(long, value_name = "FILE")]
    cutout: Option<Pattern>,
    /// The masks as JSON with COCO run lengths, compressed as pycocotools does
    #[arg(long, value_name = "FILE")]
    rle: Option<Pattern>,
    /// The masks as JSON with polygons along pixel edges; holes are marked
    #[arg(long, value_name = "FILE")]
    polygons: Option<Pattern>,
    /// Every candidate mask, not only the best: mask.png becomes mask.0.png, mask.1.png, mask.2.png
    #[arg(long)]
    pub(super) all: bool,
    /// Print JSON on stdout, and nothing else
    #[arg(long)]
    pub(super) json: bool,
    /// Raw tensors, f32 NCHW: image_embed, feat0, feat1, low_res_masks, iou, obj_score
    #[arg(long, value_name = "FILE.safetensors")]
    save_tensors: Option<Pattern>,
    /// The encoded picture, to be prompted again with --embedding
    #[arg(long, value_name = "FILE")]
    save_embedding: Option<Pattern>,
}

/// The masks that are reported and written.
pub(super) struct Shown {
    predictions: Vec<Prediction>,
    pub(super) records: Vec<MaskRecord>,
    masks: Vec<Mask>,
    /// For each mask: which prediction, and which of its candidates.
    of: Vec<(usize, usize)>,
    objects: Vec<usize>,
    all: bool,
    /// Noisy pictures so far.
    draws: u32,
}

impl Shown {
    /// Of each object the best candidate, or all.
    pub(super) fn choose(objects: &[Object], predictions: Vec<Prediction>, all: bool) -> Result<Self> {
        let (mut records, mut masks, mut of) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (object, p)) in objects.iter().zip(&predictions).enumerate() {
            let best =
                p.candidates.iter().enumerate().fold(0, |b, (n, c)| if c.iou > p.candidates[b].iou { n } else { b });
            for (n, candidate) in p.candidates.iter().enumerate().filter(|(n, _)| all || *n == best) {
                let mask = candidate.mask()?;
                records.push(MaskRecord::new(object.number, n, candidate, &mask, p.object_score)?);
                masks.push(mask);
                of.push((i, n));
            }
        }
        let objects = objects.iter().map(|o| o.number).collect();
        Ok(Self { predictions, records, masks, of, objects, all, draws: 0 })
    }

    /// Counts in the answers on a noisy picture.
    pub(super) fn add_noisy(&mut self, noisy: &[Prediction]) -> Result<()> {
        let n = f64::from(self.draws);
        for ((record, mask), &(i, candidate)) in self.records.iter_mut().zip(&self.masks).zip(&self.of) {
            let iou = mask.iou(&noisy[i].candidates[candidate].mask()?)?;
            record.noise_stability = Some((record.noise_stability.unwrap_or(0.0) * n + iou) / (n + 1.0));
        }
        self.draws += 1;
        Ok(())
    }

    /// The numbers in a mask's file name: of the object if there are several, of the candidate if all are written.
    fn numbers(&self, mask: usize) -> Vec<usize> {
        numbers(&self.objects, self.objects[self.of[mask].0], self.all.then_some(self.of[mask].1))
    }
}

fn numbers(objects: &[usize], object: usize, candidate: Option<usize>) -> Vec<usize> {
    (objects.len() > 1).then_some(object).into_iter().chain(candidate).collect()
}

impl Outputs {
    pub(super) fn patterns(&self) -> impl Iterator<Item = (&'static str, &Pattern)> {
        let all = [
            ("--output", &self.output),
            ("--overlay", &self.overlay),
            ("--cutout", &self.cutout),
            ("--rle", &self.rle),
            ("--polygons", &self.polygons),
            ("--save-tensors", &self.save_tensors),
            ("--save-embedding", &self.save_embedding),
        ];
        all.into_iter().filter_map(|(flag, pattern)| Some((flag, pattern.as_ref()?)))
    }

    /// Whether the picture itself is needed for what is drawn.
    pub(super) fn need_picture(&self) -> bool {
        self.overlay.is_some() || self.cutout.is_some()
    }

    pub(super) fn needs_embedding(&self) -> bool {
        self.save_tensors.is_some() || self.save_embedding.is_some()
    }

    /// Before the work: names, extensions, folders, and that nothing is written twice or over an input.
    pub(super) fn check(
        &self,
        pictures: &[PathBuf],
        embedding: Option<&Path>,
        objects: &[Object],
        multimask: bool,
    ) -> Outcome {
        let candidates: Vec<Option<usize>> = match (self.all, multimask) {
            (false, _) => vec![None],
            (true, false) => vec![Some(0)],
            (true, true) => (0..3).map(Some).collect(),
        };
        let objects: Vec<usize> = objects.iter().map(|o| o.number).collect();
        let stems: Vec<String> =
            pictures.iter().map(|p| pattern::stem(p)).chain(embedding.map(pattern::stem)).collect();
        // With an embedding the picture, if there is one, gives the name.
        let stems = &stems[..pictures.len().max(1).min(stems.len())];
        for pattern in self.output.iter().chain(&self.cutout) {
            Format::exact_of(&pattern.path("picture", &[]))?;
        }
        if let Some(pattern) = &self.overlay {
            Format::of(&pattern.path("picture", &[]))?;
        }
        let mut files = Vec::new();
        for stem in stems {
            for &candidate in &candidates {
                for pattern in self.output.iter().chain(&self.cutout) {
                    files.extend(objects.iter().map(|&o| pattern.path(stem, &numbers(&objects, o, candidate))));
                }
                files.extend(self.overlay.iter().map(|p| p.path(stem, candidate.as_slice())));
            }
            let whole = [&self.rle, &self.polygons, &self.save_tensors, &self.save_embedding];
            files.extend(whole.into_iter().flatten().map(|p| p.path(stem, &[])));
        }
        let inputs: Vec<PathBuf> = pictures.iter().cloned().chain(embedding.map(Path::to_path_buf)).collect();
        pattern::check(&inputs, files.into_iter())
    }

    /// Writes all but tensors.
    pub(super) fn write(&self, stem: &str, picture: Option<Picture>, shown: &Shown, markers: &[Marker]) -> Result<()> {
        for (i, mask) in shown.masks.iter().enumerate() {
            if let Some(pattern) = &self.output {
                output::save_mask(&pattern.path(stem, &shown.numbers(i)), mask)?;
            }
            if let (Some(pattern), Some(picture)) = (&self.cutout, &picture) {
                let rgba = draw::cut_out(picture, mask)?;
                output::save_rgba(&pattern.path(stem, &shown.numbers(i)), &rgba, picture.width(), picture.height())?;
            }
        }
        if let Some(pattern) = &self.rle {
            let records: Vec<_> = shown.records.iter().map(MaskRecord::with_rle).collect();
            output::save_json(&pattern.path(stem, &[]), &records)?;
        }
        if let Some(pattern) = &self.polygons {
            let records: Vec<_> = shown.records.iter().zip(&shown.masks).map(|(r, m)| r.with_polygons(m)).collect();
            output::save_json(&pattern.path(stem, &[]), &records)?;
        }
        let (Some(pattern), Some(picture)) = (&self.overlay, picture) else { return Ok(()) };
        // One picture of all objects; with --all one for each candidate.
        let candidates = if shown.all { shown.of.iter().map(|of| of.1 + 1).max().unwrap_or(0) } else { 1 };
        for n in 0..candidates {
            let chosen = |i: &usize| !shown.all || shown.of[*i].1 == n;
            let masks: Vec<&Mask> = (0..shown.masks.len()).filter(chosen).map(|i| &shown.masks[i]).collect();
            let mut drawn = picture.clone();
            draw::overlay(&mut drawn, &masks)?;
            draw::markers(&mut drawn, markers);
            output::save_picture(&pattern.path(stem, shown.all.then_some(n).as_slice()), &drawn)?;
        }
        Ok(())
    }

    /// Writes `--save-tensors` and `--save-embedding`.
    pub(super) fn write_tensors(&self, stem: &str, embedding: &Embedding, shown: &Shown) -> Result<()> {
        if let Some(pattern) = &self.save_embedding {
            output::write(&pattern.path(stem, &[]), &embedding.to_safetensors()?)?;
        }
        let Some(pattern) = &self.save_tensors else { return Ok(()) };
        let p = &shown.predictions;
        let objects = p.len();
        let candidates = p.first().map_or(0, |p| p.candidates.len());
        let side = p.first().and_then(|p| p.candidates.first()).map_or(0, |c| c.low_res_side());
        let all = || p.iter().flat_map(|p| &p.candidates);
        let masks: Vec<f32> = all().flat_map(|c| &c.low_res).copied().collect();
        let iou: Vec<f32> = all().map(|c| c.iou).collect();
        let scores: Vec<f32> = p.iter().map(|p| p.object_score).collect();
        let mut tensors: Vec<(&str, Vec<usize>, &[f32])> = vec![
            ("low_res_masks", vec![objects, candidates, side, side], &masks),
            ("iou", vec![objects, candidates], &iou),
            ("obj_score", vec![objects, 1], &scores),
        ];
        tensors.extend(embedding.tensors.iter().map(|(name, shape, v)| (name.as_str(), shape.to_vec(), v.as_slice())));
        let views = tensors
            .into_iter()
            .map(|(name, shape, values)| Ok((name, TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values))?)));
        let bytes = views
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .and_then(|views| safetensors::serialize(views, None))
            .error(ErrorKind::Internal, || "cannot serialise tensors")?;
        output::write(&pattern.path(stem, &[]), &bytes)
    }
}
