//! `--point`, `--box` and `--mask`: from flags to one prompt for each object.

use super::failure::{Failure, Outcome};
use impasto::{
    Error, ErrorKind, Result,
    error::{Context, IntoError},
    image::{Mask, Picture, draw::Marker},
    models::sam2::{MaskPrompt, Prompt},
};
use safetensors::{Dtype, SafeTensors};
use std::{collections::BTreeMap, path::Path, str::FromStr};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What to segment")]
pub(super) struct PromptArgs {
    /// A click on the object, or with ",0" on what is not the object; repeat it for more clicks
    #[arg(long, value_name = "X,Y[,0][@OBJ]", allow_hyphen_values = true)]
    point: Vec<Numbered<Click>>,
    /// A box around an object; several boxes are several objects
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1[@OBJ]", allow_hyphen_values = true)]
    bounds: Vec<Numbered<Bounds>>,
    /// A mask to start from: a picture (bright is the object) or a file that --save-tensors wrote
    #[arg(long, value_name = "FILE[@OBJ]")]
    mask: Vec<Numbered<String>>,
    /// Give no prompt: whatever the model finds most salient
    #[arg(long, conflicts_with_all = ["point", "bounds", "mask"])]
    no_prompt: bool,
}

/// A prompt and the number of the object that it belongs to.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) number: usize,
    pub(super) prompt: Prompt,
}

impl PromptArgs {
    /// One prompt for each object, by its number. Mask files are read here.
    ///
    /// Without `@OBJ` clicks belong to object 0, and boxes and masks to objects 0, 1, 2 .. in their order: so one box, one
    /// mask and all clicks are one object.
    pub(super) fn objects(&self) -> Outcome<Vec<Object>> {
        let mut objects: BTreeMap<usize, Prompt> = BTreeMap::new();
        if self.no_prompt {
            objects.insert(0, Prompt::default());
        }
        for (number, bounds) in numbered(&self.bounds) {
            let prompt = objects.entry(number).or_default();
            usage(prompt.bounds.is_none(), || format!("object {number} has two boxes"))?;
            prompt.bounds = Some(bounds.0);
        }
        let mut with_mask = 0;
        for (number, file) in numbered(&self.mask) {
            let alone = self.mask.len() == 1 && self.mask[0].object.is_none();
            for (i, mask) in read_mask(Path::new(file), alone)?.into_iter().enumerate() {
                let prompt = objects.entry(number + i).or_default();
                usage(prompt.mask.is_none(), || format!("object {} has two masks", number + i))?;
                prompt.mask = Some(mask);
                with_mask += 1;
            }
        }
        let several = self.bounds.iter().filter(|b| b.object.is_none()).count() > 1 || with_mask > 1;
        for point in &self.point {
            usage(point.object.is_some() || !several, || {
                "several objects: say which one each click belongs to, as in --point 320,200@1 (they count from 0)"
                    .into()
            })?;
            let Click { x, y, positive } = point.value;
            let prompt = objects.entry(point.object.unwrap_or(0)).or_default();
            *prompt = std::mem::take(prompt).and_point(x, y, positive);
        }
        usage(!objects.is_empty(), || {
            "nothing to segment: give --point, --box or --mask (`impasto masks` finds every object; --no-prompt asks for \
             whatever is most salient)"
                .into()
        })?;
        Ok(objects.into_iter().map(|(number, prompt)| Object { number, prompt }).collect())
    }
}

pub(super) fn usage(fine: bool, message: impl FnOnce() -> String) -> Outcome {
    if fine { Ok(()) } else { Err(Failure::Usage(message())) }
}

/// A value and the object that its suffix `@OBJ` names.
#[derive(Debug, Clone)]
pub(super) struct Numbered<T> {
    pub(super) object: Option<usize>,
    pub(super) value: T,
}

/// With the numbers of those that have none: they count on their own.
fn numbered<T>(all: &[Numbered<T>]) -> Vec<(usize, &T)> {
    let mut next = 0..;
    all.iter().map(|n| (n.object.or_else(|| next.next()).unwrap_or(0), &n.value)).collect()
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Click {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) positive: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds(pub(super) [f32; 4]);

impl<T: FromStr<Err = String>> Numbered<T> {
    fn parse(text: &str) -> Result<Self, String> {
        let split = text.rsplit_once('@').and_then(|(rest, n)| Some((rest, n.parse().ok()?)));
        Ok(match split {
            Some((rest, object)) => Self { object: Some(object), value: rest.parse()? },
            None => Self { object: None, value: text.parse()? },
        })
    }
}

impl FromStr for Numbered<Click> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl FromStr for Numbered<Bounds> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl FromStr for Numbered<String> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // A file whose name ends in @2 is that file.
        let split = text.rsplit_once('@').and_then(|(file, n)| Some((file, n.parse().ok()?)));
        Ok(match split.filter(|_| !Path::new(text).exists()) {
            Some((file, object)) => Self { object: Some(object), value: file.to_string() },
            None => Self { object: None, value: text.to_string() },
        })
    }
}

fn numbers(text: &str) -> Result<Vec<f32>, String> {
    let number = |part: &str| part.trim().parse().map_err(|_| format!("`{part}` is not a number"));
    text.split(',').map(number).collect()
}

impl FromStr for Click {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match numbers(text)?[..] {
            [x, y] => Ok(Self { x, y, positive: true }),
            [x, y, label] if label == 0.0 || label == 1.0 => Ok(Self { x, y, positive: label == 1.0 }),
            [_, _, _] => Err("the label after X,Y is 1 (the object) or 0 (not the object)".into()),
            _ => Err("expected X,Y or X,Y,0".into()),
        }
    }
}

impl FromStr for Bounds {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let four = numbers(text)?.try_into();
        four.map(Self).map_err(|_| "expected X0,Y0,X1,Y1".into())
    }
}

/// What the overlay shows of a prompt.
pub(super) fn markers(prompt: &Prompt) -> Vec<Marker> {
    let click = |p: &impasto::models::sam2::Point| match p.positive {
        true => Marker::Positive([p.x, p.y]),
        false => Marker::Negative([p.x, p.y]),
    };
    prompt.bounds.map(Marker::Box).into_iter().chain(prompt.points.iter().map(click)).collect()
}

/// A picture as a binary mask, or the logits of one object (of all, if the file may speak for several).
fn read_mask(path: &Path, several: bool) -> Result<Vec<MaskPrompt>> {
    let is_logits = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    if !is_logits {
        return Ok(vec![MaskPrompt::Binary(read_binary(path)?)]);
    }
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("{}: no such file", path.display())),
        _ => Error::with_source(ErrorKind::Io, format!("cannot read {}", path.display()), e),
    })?;
    let masks = best_logits(&bytes).context(|| format!("{}", path.display()))?;
    if masks.len() > 1 && !several {
        let message = format!("{} has masks of {} objects: give it alone, without @OBJ", path.display(), masks.len());
        return Err(Error::new(ErrorKind::Argument, message));
    }
    Ok(masks.into_iter().map(MaskPrompt::Logits).collect())
}

/// The pixels that are brighter than half of the brightest: masks come as 0 and 1, as 0 and 255, and out of JPEGs.
pub(super) fn read_binary(path: &Path) -> Result<Mask> {
    let picture = Picture::load(path)?;
    let bright: Vec<u8> = picture.rgb().chunks_exact(3).map(|p| p[0].max(p[1]).max(p[2])).collect();
    let most = bright.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return Err(Error::new(ErrorKind::Argument, format!("{}: the mask is black: nothing is set", path.display())));
    }
    Mask::from_fn_of(&bright, picture.width(), picture.height(), |v| u32::from(v) * 2 > u32::from(most))
}

/// Of a file with `low_res_masks` `(objects, masks, h, w)`, or with one tensor only, the mask of each object whose
/// `iou` is best, clamped as the reference clamps what it feeds back.
fn best_logits(bytes: &[u8]) -> Result<Vec<Vec<f32>>> {
    let bad = |what: &str| Error::new(ErrorKind::Input, what.to_string());
    let file = SafeTensors::deserialize(bytes).error(ErrorKind::Input, || "not a safetensors file")?;
    let floats = |name: &str| -> Result<(Vec<usize>, Vec<f32>)> {
        let tensor = file.tensor(name).error(ErrorKind::Input, || format!("no tensor `{name}`"))?;
        if tensor.dtype() != Dtype::F32 {
            return Err(bad(&format!("`{name}` is {:?}, not f32", tensor.dtype())));
        }
        Ok((tensor.shape().to_vec(), bytemuck::pod_collect_to_vec(tensor.data())))
    };
    let names = file.names();
    // Logits that something else wrote may have any name.
    let name = if names.len() == 1 { names[0] } else { "low_res_masks" };
    let (shape, values) = floats(name)?;
    let (objects, masks, h, w) = match shape[..] {
        [h, w] => (1, 1, h, w),
        [objects, h, w] => (objects, 1, h, w),
        [objects, masks, h, w] => (objects, masks, h, w),
        _ => return Err(bad(&format!("`{name}` has shape {shape:?}, expected (objects, masks, h, w)"))),
    };
    if values.is_empty() {
        return Err(bad(&format!("`{name}` is empty")));
    }
    let iou = if masks == 1 { vec![0.0; objects] } else { floats("iou")?.1 };
    if iou.len() != objects * masks {
        return Err(bad(&format!("`iou` and `{name}` are not of the same masks")));
    }
    let best = |o: usize| {
        let scores = &iou[o * masks..][..masks];
        let best = (1..masks).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
        let logits = &values[(o * masks + best) * h * w..][..h * w];
        logits.iter().map(|l| l.clamp(-32.0, 32.0)).collect()
    };
    Ok((0..objects).map(best).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        prompts: PromptArgs,
    }

    fn objects(flags: &str) -> Outcome<Vec<Object>> {
        let args = std::iter::once("test").chain(flags.split_whitespace());
        Flags::try_parse_from(args).map_err(|e| Failure::Usage(e.to_string()))?.prompts.objects()
    }

    #[test]
    fn one_box_and_all_clicks_are_one_object() {
        let all = objects("--point 1,2 --point 3,4.5,0 --box 0,0,9,8").unwrap();
        assert_eq!(all.len(), 1);
        let expected = Prompt::bounds([0.0, 0.0, 9.0, 8.0]).and_point(1.0, 2.0, true).and_point(3.0, 4.5, false);
        assert_eq!((all[0].number, &all[0].prompt), (0, &expected));
    }

    #[test]
    fn several_boxes_are_several_objects() {
        let all = objects("--box 0,0,9,8 --box 1,1,2,2 --point 5,5,0@1 --point 7,7@4").unwrap();
        assert_eq!(all.iter().map(|o| o.number).collect::<Vec<_>>(), [0, 1, 4]);
        assert_eq!(all[1].prompt, Prompt::bounds([1.0, 1.0, 2.0, 2.0]).and_point(5.0, 5.0, false));
        assert_eq!(all[2].prompt, Prompt::point(7.0, 7.0));
        let all = objects("--box 0,0,9,8@3 --point 1,1@3").unwrap();
        assert_eq!((all.len(), all[0].number, all[0].prompt.points.len()), (1, 3, 1));
    }

    #[test]
    fn what_cannot_be_meant_is_misuse() {
        for (flags, says) in [
            ("", "nothing to segment"),
            ("--box 0,0,9,8 --box 1,1,2,2 --point 5,5", "which one each click"),
            ("--box 0,0,9,8 --box 1,1,2,2@0", "two boxes"),
            ("--point 1", "expected X,Y"),
            ("--point 1,2,3", "label"),
            ("--point 1,x", "not a number"),
            ("--box 1,2,3", "expected X0"),
            ("--no-prompt --point 1,2", "cannot be used with"),
        ] {
            match objects(flags) {
                Err(Failure::Usage(message)) => assert!(message.contains(says), "{flags}: {message}"),
                other => panic!("{flags}: {other:?}"),
            }
        }
        assert_eq!(objects("--no-prompt").unwrap()[0].prompt, Prompt::default());
        assert_eq!(objects("--point -3,nan").unwrap()[0].prompt.points[0].x, -3.0);
    }

    #[test]
    fn of_each_object_the_best_logits_are_taken() {
        use safetensors::tensor::TensorView;
        let file = |masks: &[f32], shape: [usize; 4], iou: &[f32]| {
            let view = |shape: &[usize], v: &[f32]| {
                let bytes: &'static [u8] = Box::leak(bytemuck::cast_slice(v).to_vec().into_boxed_slice());
                TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()
            };
            let tensors = [("low_res_masks", view(&shape, masks)), ("iou", view(&[iou.len()], iou))];
            safetensors::serialize(tensors, None).unwrap()
        };
        let one = |shape: &[usize]| {
            let view = TensorView::new(Dtype::F32, shape.to_vec(), &[0; 32]).unwrap();
            best_logits(&safetensors::serialize([("mask", view)], None).unwrap())
        };
        assert_eq!((one(&[2, 4]).unwrap().len(), one(&[2, 2, 2]).unwrap().len()), (1, 2));
        assert!(one(&[8]).unwrap_err().to_string().contains("expected (objects, masks, h, w)"));
        let masks: Vec<f32> = (0..8).map(|i| i as f32 * 10.0 - 35.0).collect();
        let bytes = file(&masks, [2, 2, 1, 2], &[0.5, 0.9, 0.7, 0.7]);
        assert_eq!(best_logits(&bytes).unwrap(), [[-15.0, -5.0], [5.0, 15.0]]);
        assert_eq!(best_logits(&file(&masks, [1, 1, 4, 2], &[])).unwrap()[0][0], -32.0);
        for (bytes, says) in [
            (file(&masks, [2, 2, 1, 2], &[0.5]), "same masks"),
            (file(&[], [0, 1, 1, 2], &[]), "empty"),
            (b"nothing".to_vec(), "safetensors"),
        ] {
            let e = best_logits(&bytes).unwrap_err();
            assert!(e.kind() == ErrorKind::Input && e.to_string().contains(says), "{e}");
        }
    }
}
