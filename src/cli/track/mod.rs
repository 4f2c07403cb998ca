//! `impasto track`: objects followed through a clip.

mod follow;
mod outputs;
mod prompts;
mod record;
mod resume;
mod settings;
mod tensors;

use super::{
    failure::{Outcome, print_line},
    global::Global,
    masks::settings::SettingsArgs,
    prompts::usage,
    session::ModelArgs,
};
use follow::Run;
use impasto::{
    Error, ErrorKind, Result,
    gpu::Gpu,
    image::{
        Picture,
        batch::expand,
        frames::{Clip, Length},
    },
    models::sam2::{
        Config, Predictor, amg,
        video::{
            Session,
            clip::{Course, Given, Prompts, Propagation},
        },
    },
    weights::Weights,
};
use outputs::{Outputs, Sinks};
use prompts::PromptArgs;
use resume::State;
use settings::Settings;
use std::path::{Path, PathBuf};

/// Follow objects through a clip: prompt them in a frame, and get them in all
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A folder of pictures, a pattern such as 'in/*.jpg', a GIF, an animated WebP, a video (takes ffmpeg), or - for raw frames
    /// on stdin
    #[arg(value_name = "CLIP")]
    clip: String,
    /// The size of raw frames on stdin: 8-bit RGB, nothing between them
    #[arg(long, value_name = "WxH", value_parser = size)]
    raw: Option<(usize, usize)>,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    outputs: Outputs,
    #[command(flatten)]
    settings: Settings,
    /// Go on where a run of this command ended early: by Ctrl-C, or by a frame that could not be read
    #[arg(long)]
    resume: bool,
    /// Where a run that ends early leaves what it knows [default: impasto-track.state in the --out folder, or here]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Say what would be done, and end
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    generator: SettingsArgs,
}

const EXAMPLES: &str = "\
Frames count from 0, objects from 1. Points, boxes and masks may be given on any frame; those of one object and frame are one \
prompt. A prompt is given when its frame comes, and corrects what was found there of an object that is followed already. Before \
its first prompt an object is nowhere; --both follows it back, too.

Examples:
  impasto track clip.mp4 --point 0:320,200 --out masks --overlay over.mp4
  impasto track frames/ --box 12:10,20,200,180@1 --point 30:90,80,0@1 --point 12:300,90@2 --both --json > tracks.jsonl
  impasto track clip.gif --mask 0:first.png --out masks --per-object --cutouts cut
  impasto track clip.mp4 --objects-from-masks --max-objects 10 --overlay over.gif
  ffmpeg -i rtsp://camera -f rawvideo -pix_fmt rgb24 - | impasto track - --raw 1280x720 --point 0:640,300 --json

A line of --json: {frame, objects: [{id, score (the logit of \"it is there\"), iou (as the model expects it), area, bbox [x, y, w, \
h], rle {size, counts}}]}. As in SAM 2, w and h are the differences of the outermost pixels: one pixel has w = 0.

Ctrl-C ends after the present frame and keeps what is done; the command to go on is printed. A stream on stdin has to be sent \
again from its beginning then. For --reverse and --both, frames of videos and streams are kept in the temporary folder (TMPDIR).";

fn size(text: &str) -> Result<(usize, usize), String> {
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.filter(|(w, h)| *w > 0 && *h > 0).ok_or_else(|| "expected WxH, as in 1280x720".into())
}

pub(super) fn run(args: &Args, global: &Global) -> Outcome {
    let mut course = args.settings.course();
    let mut prompts = args.prompts.prompts()?;
    usage(!prompts.is_empty() || args.prompts.objects_from_masks, || {
        "nothing to follow: give --point, --box, --mask, or --objects-from-masks".into()
    })?;
    args.settings.check()?;
    let generator = args.generator.settings()?;
    let mut clip = args.open_clip()?;
    if args.prompts.objects_from_masks {
        // They are known when the model has run; that there are some on the first frame is known now.
        prompts.entry(course.from).or_default();
    }
    course.check(&prompts, &clip)?;
    if !clip.seeks() && (course.needs_any_order(&prompts) || (args.prompts.objects_from_masks && course.from > 0)) {
        clip = clip.seekable()?;
    }
    let state = args.state_path();
    let before = args.resume.then(|| State::read(&state, &course, clip.size())).transpose()?;
    let ids: Vec<u32> = prompts.values().flatten().map(|(object, _)| *object).collect();
    let inputs: Vec<PathBuf> = args.prompts.files().map(Path::to_path_buf).chain(args.clip_file()).collect();
    args.outputs.check(Path::new(&args.clip), &clip, &inputs, &ids)?;
    if args.dry_run {
        return args.tell_plan(&clip, &course, &prompts);
    }
    if let Some(path) = args.outputs.whole_files().find(|path| args.resume && path.exists()) {
        let message = format!("{} has the frames before, and cannot be continued: give another name", path.display());
        return Err(Error::new(ErrorKind::Argument, message).into());
    }

    let progress = global.progress();
    let (gpu, config, weights) = args.model.open(global, &progress)?;
    if args.prompts.objects_from_masks && before.is_none() {
        let mut predictor =
            pollster::block_on(Predictor::new(&gpu, config.clone(), &weights, args.model.options(global)))?;
        let first = args.first_frame(&mut clip, course.from)?;
        progress.stage("finding objects");
        let found =
            progress.with(|control| pollster::block_on(amg::generate(&mut predictor, &first, &generator, control)))?;
        args.add_found(&mut prompts, course.from, found)?;
    }
    let length = match clip.length() {
        Length::Exact(n) | Length::About(n) => Some(n),
        Length::Unknown => None,
    };
    let mut session = args.session(&gpu, config, &weights, global, length)?;
    if let Some((position, saved)) = &before {
        session.restore(saved).map_err(|e| e.context(state.display().to_string()))?;
        course.after = Some(*position);
    }
    let sinks = Sinks::open(&args.outputs, &clip, before.is_some())?;
    let size = clip.size();
    let propagation = Propagation::new(session, clip, prompts, course)?;
    let run = Run { args, gpu, course, size, state, propagation, sinks, progress: &progress, quiet: global.quiet };
    run.follow()
}

impl Args {
    fn open_clip(&self) -> Outcome<Clip> {
        usage(self.raw.is_some() == (self.clip == "-"), || {
            "raw frames on stdin are `-` and their size: impasto track - --raw 1280x720".into()
        })?;
        if let Some((width, height)) = self.raw {
            return Ok(Clip::raw(Box::new(std::io::stdin()), width, height)?);
        }
        let path = Path::new(&self.clip);
        if !path.exists() && self.clip.contains(['*', '?', '[']) {
            return Ok(Clip::folder(expand(&[&self.clip])?)?);
        }
        Ok(Clip::open(path)?)
    }

    /// The clip, if it is a file that must not be written over.
    fn clip_file(&self) -> Option<PathBuf> {
        Some(PathBuf::from(&self.clip)).filter(|path| path.is_file())
    }

    fn state_path(&self) -> PathBuf {
        let folder = self.outputs.out.as_deref().unwrap_or(Path::new(""));
        self.state.clone().unwrap_or_else(|| folder.join("impasto-track.state"))
    }

    fn first_frame(&self, clip: &mut Clip, from: usize) -> Result<Picture> {
        match clip.first().filter(|_| from == 0) {
            Some(first) => Ok(first.clone()),
            None => clip.frame(from)?.ok_or_else(|| {
                Error::new(ErrorKind::Argument, format!("the clip ends before frame {from}, where it is to be begun"))
            }),
        }
    }

    /// Adds what the mask generator found, the largest first, with numbers that are not taken.
    fn add_found(&self, prompts: &mut Prompts, frame: usize, mut found: Vec<amg::Record>) -> Result<()> {
        if found.is_empty() {
            let message =
                format!("no object was found on frame {frame}: lower --pred-iou-thresh or --stability-score-thresh");
            return Err(Error::new(ErrorKind::Argument, message));
        }
        found.sort_by_key(|record| std::cmp::Reverse(record.area));
        found.truncate(self.prompts.max_objects.unwrap_or(usize::MAX));
        let taken = prompts.values().flatten().map(|(object, _)| *object).max().unwrap_or(0);
        let given = found.iter().map(|record| Given::Mask(record.segmentation.decode()));
        prompts.entry(frame).or_default().extend((taken + 1..).zip(given));
        Ok(())
    }

    fn session(
        &self,
        gpu: &Gpu,
        mut config: Config,
        weights: &Weights,
        global: &Global,
        frames: Option<usize>,
    ) -> Outcome<Session> {
        let model = self.model.options(global);
        if let (Some(memory), Some(most)) = (&mut config.memory, self.settings.max_cond_frames) {
            memory.max_cond_frames = Some(most);
        }
        Ok(pollster::block_on(Session::new(gpu, config, weights, self.settings.options(&model, frames)))?)
    }

    fn tell_plan(&self, clip: &Clip, course: &Course, prompts: &Prompts) -> Outcome {
        let (width, height) = clip.size();
        let frames = match clip.length() {
            Length::Exact(n) => format!("{n} frames"),
            Length::About(n) => format!("about {n} frames"),
            Length::Unknown => "frames until it ends".into(),
        };
        let rate = clip.rate().map(|rate| format!(", {rate:.2} a second")).unwrap_or_default();
        print_line(&format!("{}: {frames} of {width}x{height}{rate}", self.clip))?;
        for (frame, given) in prompts {
            let objects: Vec<String> = given.iter().map(|(object, _)| object.to_string()).collect();
            let objects = if objects.is_empty() { "what the mask generator finds".into() } else { objects.join(", ") };
            print_line(&format!("frame {frame}: prompts of {objects}"))?;
        }
        let total = course.total(prompts, clip.length()).map_or("all".into(), |n| n.to_string());
        print_line(&format!("{total} frames to follow, {:?}", course.direction).to_lowercase())
    }
}
