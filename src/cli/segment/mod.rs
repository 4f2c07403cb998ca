//! `impasto segment`: the object that is clicked on.

mod outputs;
mod record;

use super::{
    batch::{self, Loaded, Source},
    failure::{Failure, Outcome, print_json, print_line},
    global::Global,
    noise, pattern,
    prompts::{Object, PromptArgs},
    session::{GpuBytes, ModelArgs, Session, Timings},
    signal,
};
use impasto::{
    Error, ErrorKind, Result,
    image::{Picture, batch::expand},
    models::sam2::{Ask, Embedding, Predictor},
};
use outputs::{Outputs, Shown};
use record::MaskRecord;
use serde::Serialize;
use std::path::PathBuf;

/// Segment the object that you click on, box in, or give a mask of
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Pictures (PNG, JPEG, WebP), folders, or patterns such as 'in/*.jpg'
    #[arg(value_name = "PIC", required_unless_present = "embedding")]
    pictures: Vec<String>,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    outputs: Outputs,
    #[command(flatten)]
    masks: MaskArgs,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Masks")]
struct MaskArgs {
    /// Three masks for an ambiguous prompt, of which the best is taken, or one
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = on_off(), action = clap::ArgAction::Set)]
    multimask: bool,
    /// Logits above this are the object
    #[arg(long, value_name = "LOGIT", default_value_t = 0.0, allow_negative_numbers = true)]
    mask_threshold: f32,
    /// Fill holes of at most AREA pixels of the low-resolution mask (a quarter of the model's side)
    #[arg(long, value_name = "AREA", default_value_t = 0)]
    fill_holes: u64,
    /// Drop specks of at most AREA pixels of the low-resolution mask
    #[arg(long, value_name = "AREA", default_value_t = 0)]
    max_sprinkle: u64,
    /// Also report how far masks stay the same (mean IoU of 4) under Gaussian noise of SIGMA levels of 0-255
    #[arg(long, value_name = "SIGMA", conflicts_with = "embedding")]
    stability_noise: Option<f32>,
    /// Prompt a picture that --save-embedding kept; PIC is then only needed for --overlay and --cutout
    #[arg(long, value_name = "FILE")]
    embedding: Option<PathBuf>,
}

fn on_off() -> impl clap::builder::TypedValueParser<Value = bool> {
    use clap::builder::TypedValueParser;
    clap::builder::PossibleValuesParser::new(["on", "off"]).map(|v| v == "on")
}

const EXAMPLES: &str = "\
Coordinates are pixels from the top left corner of the picture as it is shown (EXIF orientation applied).

All clicks, one box and one mask are one object. Several boxes are several objects, which count from 0; @OBJ after a \
click, box or mask says which object it belongs to. Each object is written to its own file: mask.0.png, mask.1.png ..

Examples:
  impasto segment photo.jpg --point 320,200 -o mask.png --overlay over.png
  impasto segment photo.jpg --point 320,200 --point 90,80,0 --cutout cut.png
  impasto segment photo.jpg --box 10,20,200,180 --box 220,40,300,160 -o mask.png
  impasto segment photo.jpg --point 5,5@0 --point 90,80@1 --json
  impasto segment 'in/*.jpg' --point 320,200 -o 'out/{stem}.png' --json > masks.jsonl

--json prints one object (one a line for several pictures): picture, model, adapter, image {width, height}, masks \
[{object, candidate, score, stability, mean_abs_logit, object_score (a logit), area, bbox [x, y, w, h], rle {size, \
counts}}], timings_ms, gpu_bytes. As in SAM 2, w and h are the differences of the outermost pixels: one pixel has w = 0.";

/// What `--json` prints for a picture.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<String>,
    model: &'a str,
    adapter: &'a str,
    image: Size,
    masks: &'a [MaskRecord],
    timings_ms: &'a Timings,
    gpu_bytes: GpuBytes,
}

#[derive(Debug, Serialize)]
struct Size {
    width: usize,
    height: usize,
}

/// A picture as the encoder takes it.
struct Prepared {
    pixels: Vec<f32>,
    size: (usize, usize),
    /// Kept where something is drawn on it or noise is added.
    picture: Option<Picture>,
}

pub(super) fn run(args: &Args, global: &Global) -> Outcome {
    let paths = if args.pictures.is_empty() { Vec::new() } else { expand(&args.pictures)? };
    args.check(paths.len())?;
    let objects = args.prompts.objects()?;
    for object in &objects {
        object.prompt.check_numbers().map_err(|e| e.context(format!("object {}", object.number)))?;
    }
    args.outputs.check(&paths, args.masks.embedding.as_deref(), &objects, args.masks.multimask)?;

    let embedding = args.masks.read_embedding()?;
    let sources = Source::of(paths)?;
    let size = match (&embedding, sources.first()) {
        (Some(e), _) => Some(e.picture),
        (None, Some(Source::Read(_, picture, _))) => Some((picture.width(), picture.height())),
        _ => None,
    };
    if let Some((width, height)) = size {
        inside(&objects, width, height)?;
    }

    let progress = global.progress();
    let mut run = Run {
        session: Session::open(&args.model, global, &progress, embedding.is_none())?,
        args,
        objects,
        quiet: global.quiet,
        progress: &progress,
    };
    if let Some(embedding) = embedding {
        let picture = sources.into_iter().next().and_then(|s| match s {
            Source::Read(path, picture, _) => Some((path, picture)),
            Source::Path(_) => None,
        });
        return run.restored(&embedding, picture);
    }
    let side = run.session.predictor.image_size();
    let keep = args.outputs.need_picture() || args.masks.stability_noise.is_some();
    let prepare = move |picture: Picture| {
        let pixels = Predictor::preprocess(&picture, side)?;
        let size = (picture.width(), picture.height());
        Ok(Prepared { pixels, size, picture: keep.then_some(picture) })
    };
    batch::run(sources, args.outputs.json, &progress, prepare, |loaded| run.picture(loaded))
}

/// Before a model is loaded: a click that cannot be meant should not take ten seconds to be refused.
fn inside(objects: &[Object], width: usize, height: usize) -> Result<()> {
    for object in objects {
        object.prompt.check_inside(width, height).map_err(|e| e.context(format!("object {}", object.number)))?;
    }
    Ok(())
}

impl Args {
    fn check(&self, pictures: usize) -> Outcome {
        if let Some(sigma) = self.masks.stability_noise
            && !(0.0..=255.0).contains(&sigma)
        {
            return Err(Failure::Usage("--stability-noise takes a number from 0 to 255".into()));
        }
        if !self.masks.mask_threshold.is_finite() {
            return Err(Failure::Usage("--mask-threshold takes a number".into()));
        }
        if self.masks.embedding.is_some() && (pictures > 1 || (pictures == 0 && self.outputs.need_picture())) {
            return Err(Failure::Usage(
                "--embedding is of one picture: give that one PIC for --overlay and --cutout, and none else".into(),
            ));
        }
        pattern::need_stems(pictures, self.outputs.patterns())
    }
}

impl MaskArgs {
    fn read_embedding(&self) -> Result<Option<Embedding>> {
        let Some(path) = &self.embedding else { return Ok(None) };
        let named = |e: Error| e.context(path.display().to_string());
        let bytes = std::fs::read(path).map_err(|e| named(Error::with_source(ErrorKind::Io, "cannot be read", e)))?;
        Ok(Some(Embedding::from_safetensors(&bytes).map_err(named)?))
    }

    fn ask(&self) -> Ask {
        Ask {
            multimask: self.multimask,
            threshold: self.mask_threshold,
            max_hole_area: self.fill_holes,
            max_sprinkle_area: self.max_sprinkle,
        }
    }
}

struct Run<'a> {
    session: Session,
    args: &'a Args,
    objects: Vec<Object>,
    quiet: bool,
    progress: &'a super::progress::Progress,
}

impl Run<'_> {
    /// Encodes a picture and answers the prompts.
    fn picture(&mut self, loaded: Loaded<Prepared>) -> Outcome {
        let Loaded { path, content: Prepared { pixels, size: (width, height), picture }, read } = loaded;
        inside(&self.objects, width, height)?;
        let mut timings = self.session.timings();
        timings.set("read", read);
        self.progress.stage(format!("encoding {}", pattern::stem(&path)));
        let predictor = &mut self.session.predictor;
        timings.time("encode", || {
            self.progress.with(|control| pollster::block_on(predictor.encode(&pixels, width, height, control)))?;
            // It has only been submitted: its time is not the decoder's.
            pollster::block_on(predictor.gpu().done())
        })?;
        self.answer(Some(path), picture, (width, height), timings)
    }

    /// Answers the prompts on a picture that was encoded some other day.
    fn restored(&mut self, embedding: &Embedding, picture: Option<(PathBuf, Picture)>) -> Outcome {
        let (path, picture) = picture.unzip();
        if let Some(p) = &picture
            && (p.width(), p.height()) != embedding.picture
        {
            let (w, h) = embedding.picture;
            let message =
                format!("the embedding is of a picture of {w}x{h}, this one has {}x{}", p.width(), p.height());
            return Err(Error::new(ErrorKind::Argument, message).into());
        }
        let mut timings = self.session.timings();
        let predictor = &mut self.session.predictor;
        timings.time("restore", || {
            self.progress.with(|control| pollster::block_on(predictor.restore(embedding, control)))?;
            pollster::block_on(predictor.gpu().done())
        })?;
        self.answer(path.or_else(|| self.args.masks.embedding.clone()), picture, embedding.picture, timings)
    }

    fn answer(
        &mut self,
        path: Option<PathBuf>,
        picture: Option<Picture>,
        (width, height): (usize, usize),
        mut timings: Timings,
    ) -> Outcome {
        let (args, ask) = (self.args, self.args.masks.ask());
        let prompts: Vec<_> = self.objects.iter().map(|o| o.prompt.clone()).collect();
        let predictor = &mut self.session.predictor;
        let predict = |predictor: &mut Predictor| {
            self.progress.with(|control| pollster::block_on(predictor.predict(&prompts, &ask, control)))
        };
        self.progress.stage("decoding");
        let predictions = timings.time("decode", || predict(predictor))?;
        let mut shown = Shown::choose(&self.objects, predictions, args.outputs.all)?;

        // What is saved of the embedding comes before noise replaces it.
        let stem = path.as_deref().map(pattern::stem).unwrap_or_default();
        if args.outputs.needs_embedding() {
            timings.time("write", || {
                let embedding = pollster::block_on(predictor.embedding())?;
                args.outputs.write_tensors(&stem, &embedding, &shown)
            })?;
        }
        if let (Some(sigma), Some(picture)) = (args.masks.stability_noise, &picture) {
            self.progress.stage("encoding with noise");
            timings.time("noise", || {
                for draw in 0..noise::DRAWS {
                    signal::check()?;
                    let noisy = noise::noisy(picture, sigma, draw)?;
                    self.progress.with(|c| pollster::block_on(predictor.set_image(&noisy, c)))?;
                    shown.add_noisy(&predict(predictor)?)?;
                }
                Ok::<(), Error>(())
            })?;
        }
        self.progress.stage("writing");
        let markers: Vec<_> = prompts.iter().flat_map(super::prompts::markers).collect();
        timings.time("write", || args.outputs.write(&stem, picture, &shown, &markers))?;

        if args.outputs.json {
            return self.progress.beside(|| {
                print_json(&Report {
                    picture: path.map(|p| p.to_string_lossy().into_owned()),
                    model: &self.session.model,
                    adapter: self.session.adapter(),
                    image: Size { width, height },
                    masks: &shown.records,
                    timings_ms: &timings,
                    gpu_bytes: self.session.gpu_bytes(),
                })
            });
        }
        if !self.quiet {
            let name = path.map(|p| p.display().to_string()).unwrap_or_default();
            self.progress.beside(|| shown.records.iter().try_for_each(|r| print_line(&format!("{name}: {r}"))))?;
        }
        Ok(())
    }
}
