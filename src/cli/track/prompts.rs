//! Prompts with the frames that they are on.

use crate::cli::{
    failure::Outcome,
    prompts::{Bounds, Click, Numbered, read_binary, usage},
};
use impasto::{
    image::indexed,
    models::sam2::{
        Prompt,
        video::clip::{Given, Prompts},
    },
};
use std::{collections::BTreeMap, path::Path, str::FromStr};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What to follow (frames count from 0, objects from 1; without @OBJ it is object 1)")]
pub(super) struct PromptArgs {
    /// A click on the object, or with ",0" on what is not the object; repeat it for more clicks
    #[arg(long, value_name = "FRAME:X,Y[,0][@OBJ]", allow_hyphen_values = true)]
    point: Vec<Framed<Numbered<Click>>>,
    /// A box around the object
    #[arg(long = "box", value_name = "FRAME:X0,Y0,X1,Y1[@OBJ]", allow_hyphen_values = true)]
    bounds: Vec<Framed<Numbered<Bounds>>>,
    /// The object's mask: a picture, bright is the object. A PNG with a palette, as --out writes it, has several: the pixel is
    /// the object's number
    #[arg(long, value_name = "FRAME:FILE[@OBJ]")]
    mask: Vec<Framed<Numbered<String>>>,
    /// Every object that `impasto masks` finds on the first frame
    #[arg(long)]
    pub(super) objects_from_masks: bool,
    /// Of these the N largest
    #[arg(long, value_name = "N", requires = "objects_from_masks")]
    pub(super) max_objects: Option<usize>,
}

impl PromptArgs {
    /// By frame and object; mask files are read.
    pub(super) fn prompts(&self) -> Outcome<Prompts> {
        let mut all: BTreeMap<(usize, u32), Given> = BTreeMap::new();
        for mask in &self.mask {
            let path = Path::new(&mask.value.value);
            let several = match mask.value.object {
                None if path.exists() => indexed::load(path)?,
                _ => None,
            };
            let masks = match several {
                Some(masks) => {
                    usage(!masks.is_empty(), || {
                        format!("{}: the mask is empty: no pixel has an object", path.display())
                    })?;
                    masks
                }
                None => BTreeMap::from([(mask.object()?, read_binary(path)?)]),
            };
            for (object, one) in masks {
                let twice = || format!("object {object} has two masks on frame {}", mask.frame);
                usage(all.insert((mask.frame, object), Given::Mask(one)).is_none(), twice)?;
            }
        }
        for bounds in &self.bounds {
            let (prompt, at) = (points(&mut all, bounds)?, bounds.frame);
            usage(prompt.bounds.is_none(), || {
                format!("object {} has two boxes on frame {at}", bounds.object().unwrap_or(1))
            })?;
            prompt.bounds = Some(bounds.value.value.0);
        }
        for point in &self.point {
            let prompt = points(&mut all, point)?;
            let Click { x, y, positive } = point.value.value;
            *prompt = std::mem::take(prompt).and_point(x, y, positive);
        }
        let mut prompts = Prompts::new();
        for ((frame, object), given) in all {
            prompts.entry(frame).or_default().push((object, given));
        }
        Ok(prompts)
    }

    /// The files that are read.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.mask.iter().map(|mask| Path::new(&mask.value.value))
    }
}

/// The points and box of an object on a frame.
fn points<'a, T>(all: &'a mut BTreeMap<(usize, u32), Given>, of: &Framed<Numbered<T>>) -> Outcome<&'a mut Prompt> {
    let object = of.object()?;
    match all.entry((of.frame, object)).or_insert_with(|| Given::Points(Prompt::default())) {
        Given::Points(prompt) => Ok(prompt),
        Given::Mask(_) => Err(crate::cli::failure::Failure::Usage(format!(
            "object {object} has a mask on frame {}: points and boxes cannot be added to it there",
            of.frame
        ))),
    }
}

/// A value and the frame that it is on.
#[derive(Debug, Clone)]
struct Framed<T> {
    frame: usize,
    value: T,
}

impl<T> Framed<Numbered<T>> {
    fn object(&self) -> Outcome<u32> {
        let number = self.value.object.unwrap_or(1);
        let object = u32::try_from(number).unwrap_or(0);
        usage(object > 0, || format!("object {number}: objects count from 1 (0 is where there is none)"))?;
        Ok(object)
    }
}

impl<T: FromStr<Err = String>> FromStr for Framed<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((frame, value)) = text.split_once(':') else {
            return Err("the frame comes first, as in 0:320,200".into());
        };
        let frame = frame.parse().map_err(|_| format!("`{frame}` is no frame: they count from 0"))?;
        Ok(Self { frame, value: value.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Failure;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        prompts: PromptArgs,
    }

    fn prompts(flags: &str) -> Outcome<Prompts> {
        let args = std::iter::once("test").chain(flags.split_whitespace());
        Flags::try_parse_from(args).map_err(|e| Failure::Usage(e.to_string()))?.prompts.prompts()
    }

    #[test]
    fn prompts_are_gathered_by_frame_and_object() {
        let all =
            prompts("--point 3:1,2 --point 3:5,6,0@1 --box 3:0,0,9,8 --box 0:1,1,2,2@7 --point 3:-4,4@2").unwrap();
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), [0, 3]);
        assert_eq!(all[&0], [(7, Given::Points(Prompt::bounds([1.0, 1.0, 2.0, 2.0])))]);
        let one = Prompt::bounds([0.0, 0.0, 9.0, 8.0]).and_point(1.0, 2.0, true).and_point(5.0, 6.0, false);
        assert_eq!(all[&3], [(1, Given::Points(one)), (2, Given::Points(Prompt::point(-4.0, 4.0)))]);
        assert!(prompts("").unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_meant_is_misuse() {
        for (flags, says) in [
            ("--point 5,5", "the frame comes first"),
            ("--point x:5,5", "`x` is no frame"),
            ("--point -1:5,5", "`-1` is no frame"),
            ("--point 0:5", "expected X,Y"),
            ("--point 0:5,5@0", "count from 1"),
            ("--point 0:5,5@4294967296", "count from 1"),
            ("--box 0:1,1,2,2 --box 0:3,3,4,4", "object 1 has two boxes on frame 0"),
        ] {
            match prompts(flags) {
                Err(Failure::Usage(message)) => assert!(message.contains(says), "{flags}: {message}"),
                other => panic!("{flags}: {other:?}"),
            }
        }
    }
}
