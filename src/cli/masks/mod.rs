//! `impasto masks`: every object of a picture.

use super::{
    batch::{self, Loaded, Source},
    failure::{Failure, Outcome, print_json, print_line},
    global::Global,
    pattern::{self, Pattern},
    session::{GpuBytes, ModelArgs, Session, Timings},
};
use clap::ValueEnum;
use impasto::{
    ErrorKind, Result,
    error::IntoError,
    image::{
        Mask, Picture,
        batch::expand,
        draw,
        output::{self, Format},
        polygon, rle,
    },
    models::sam2::amg::{self, Record},
};
use serde::Serialize;
use settings::SettingsArgs;
use std::path::{Path, PathBuf};

pub(super) mod settings;

/// Find every object of a picture
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Pictures (PNG, JPEG, WebP), folders, or patterns such as 'in/*.jpg'
    #[arg(value_name = "PIC", required = true)]
    pictures: Vec<String>,
    #[command(flatten)]
    outputs: Outputs,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output (in FILE and DIR, {stem} is the picture's name without its extension)")]
struct Outputs {
    /// The masks as a JSON list with SAM 2's keys
    #[arg(short, long, value_name = "FILE")]
    output: Option<Pattern>,
    /// How a mask is written in JSON
    #[arg(long, value_name = "FORMAT", default_value = "coco")]
    format: MaskFormat,
    /// The picture with all masks drawn on it
    #[arg(long, value_name = "FILE")]
    overlay: Option<Pattern>,
    /// One PNG for each mask: DIR/STEM.000.png .. in the order of the list
    #[arg(long, value_name = "DIR")]
    png_dir: Option<Pattern>,
    /// Print JSON on stdout, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MaskFormat {
    /// COCO run lengths, compressed as pycocotools does
    Coco,
    /// COCO run lengths as numbers
    Uncompressed,
    /// COCO polygons, which have no holes: holes are filled
    Polygons,
}

const EXAMPLES: &str = "\
Examples:
  impasto masks photo.jpg -o masks.json --overlay over.png
  impasto masks photo.jpg --preset dense --min-mask-region-area 100 --png-dir parts
  impasto masks 'in/*.jpg' -o 'out/{stem}.json'

Each record has SAM 2's keys: segmentation, area, bbox [x, y, w, h], predicted_iou, point_coords, stability_score, \
crop_box. --json prints one object (one a line for several pictures) with these records as `masks`.";

/// What `--json` prints for a picture.
#[derive(Debug, Serialize)]
struct Report<'a> {
    picture: String,
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

/// A mask with the official generator's keys.
#[derive(Debug, Serialize)]
struct MaskRecord {
    segmentation: Segmentation,
    area: u64,
    bbox: [f32; 4],
    predicted_iou: f32,
    point_coords: [[f32; 2]; 1],
    stability_score: f32,
    crop_box: [usize; 4],
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Segmentation {
    Rle(rle::CocoRle),
    Polygons(Vec<Vec<u32>>),
}

impl MaskRecord {
    fn new(r: &Record, format: MaskFormat) -> Self {
        let segmentation = match format {
            MaskFormat::Coco => Segmentation::Rle(r.segmentation.to_coco(true)),
            MaskFormat::Uncompressed => Segmentation::Rle(r.segmentation.to_coco(false)),
            MaskFormat::Polygons => {
                let contours = polygon::contours(&r.segmentation.decode());
                Segmentation::Polygons(contours.iter().filter(|c| !c.hole).map(|c| c.to_flat()).collect())
            }
        };
        Self {
            segmentation,
            area: r.area,
            bbox: r.bbox,
            predicted_iou: r.predicted_iou,
            point_coords: [r.point_coords],
            stability_score: r.stability_score,
            crop_box: r.crop_box,
        }
    }
}

pub(super) fn run(args: &Args, global: &Global) -> Outcome {
    let settings = args.settings.settings()?;
    let paths = expand(&args.pictures)?;
    args.outputs.check(&paths)?;
    let sources = Source::of(paths)?;
    let progress = global.progress();
    let mut session = Session::open(&args.model, global, &progress, true)?;
    let json = args.outputs.json;
    batch::run(sources, json, &progress, Ok, |loaded| {
        let Loaded { path, content: picture, read } = loaded;
        let mut timings = session.timings();
        timings.set("read", read);
        progress.stage(format!("masks of {}", pattern::stem(&path)));
        let found = timings.time("generate", || {
            progress
                .with(|control| pollster::block_on(amg::generate(&mut session.predictor, &picture, &settings, control)))
        })?;
        progress.stage("writing");
        let image = Size { width: picture.width(), height: picture.height() };
        let records: Vec<_> = found.iter().map(|r| MaskRecord::new(r, args.outputs.format)).collect();
        timings.time("write", || args.outputs.write(&path, picture, &found, &records))?;
        if !json {
            let seconds = timings.total() / 1e3;
            let line = format!("{}: {} masks in {seconds:.1} s", path.display(), found.len());
            return if global.quiet { Ok(()) } else { progress.beside(|| print_line(&line)) };
        }
        progress.beside(|| {
            print_json(&Report {
                picture: path.to_string_lossy().into_owned(),
                model: &session.model,
                adapter: session.adapter(),
                image,
                masks: &records,
                timings_ms: &timings,
                gpu_bytes: session.gpu_bytes(),
            })
        })
    })
}

impl Outputs {
    fn check(&self, pictures: &[PathBuf]) -> Outcome {
        let files = [("--output", &self.output), ("--overlay", &self.overlay)];
        let given = || files.iter().filter_map(|(flag, p)| Some((*flag, p.as_ref()?)));
        if given().next().is_none() && self.png_dir.is_none() && !self.json {
            return Err(Failure::Usage("no output is asked for: give -o, --overlay, --png-dir or --json".into()));
        }
        pattern::need_stems(pictures.len(), given())?;
        if let Some(overlay) = &self.overlay {
            Format::of(&overlay.path("picture", &[]))?;
        }
        let mut outputs = Vec::new();
        for stem in pictures.iter().map(|p| pattern::stem(p)) {
            outputs.extend(given().map(|(_, p)| p.path(&stem, &[])));
            if let Some(dir) = &self.png_dir {
                let dir = dir.path(&stem, &[]);
                if !dir.is_dir() {
                    std::fs::create_dir(&dir)
                        .error(ErrorKind::Io, || format!("cannot make folder {}", dir.display()))?;
                }
                outputs.push(png(&dir, &stem, 0));
            }
        }
        pattern::check(pictures, outputs.into_iter())
    }

    fn write(&self, path: &Path, picture: Picture, found: &[Record], records: &[MaskRecord]) -> Result<()> {
        let stem = pattern::stem(path);
        if let Some(pattern) = &self.output {
            output::save_json(&pattern.path(&stem, &[]), &records)?;
        }
        if let Some(pattern) = &self.png_dir {
            let dir = pattern.path(&stem, &[]);
            for (i, record) in found.iter().enumerate() {
                super::signal::check()?;
                output::save_mask(&png(&dir, &stem, i), &record.segmentation.decode())?;
            }
        }
        if let Some(pattern) = &self.overlay {
            let masks: Vec<Mask> = found.iter().map(|r| r.segmentation.decode()).collect();
            let mut picture = picture;
            draw::overlay(&mut picture, &masks.iter().collect::<Vec<_>>())?;
            output::save_picture(&pattern.path(&stem, &[]), &picture)?;
        }
        Ok(())
    }
}

fn png(dir: &Path, stem: &str, mask: usize) -> PathBuf {
    dir.join(format!("{stem}.{mask:03}.png"))
}
