//! The official generator's parameters as flags.

use crate::cli::failure::{Failure, Outcome};
use clap::ValueEnum;
use impasto::models::sam2::amg::Settings;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Mask generator (SAM 2's parameters; a flag overrules the preset)")]
pub(in crate::cli) struct SettingsArgs {
    /// Where the other values come from
    #[arg(long, value_name = "NAME", default_value = "default")]
    preset: Preset,
    /// Clicks along each side of the picture [default: 32, dense: 64]
    #[arg(long, value_name = "N")]
    points_per_side: Option<usize>,
    /// Clicks decoded at once [default: 64, dense: 128]
    #[arg(long, value_name = "N")]
    points_per_batch: Option<usize>,
    /// Keep masks of a predicted IoU above this [default: 0.8, dense: 0.7]
    #[arg(long, value_name = "IOU")]
    pred_iou_thresh: Option<f32>,
    /// Keep masks of at least this stability [default: 0.95, dense: 0.92]
    #[arg(long, value_name = "SCORE")]
    stability_score_thresh: Option<f32>,
    /// How far the threshold is moved to measure stability [default: 1.0, dense: 0.7]
    #[arg(long, value_name = "LOGIT")]
    stability_score_offset: Option<f32>,
    /// Logits above this are the object [default: 0.0]
    #[arg(long, value_name = "LOGIT", allow_negative_numbers = true)]
    mask_threshold: Option<f32>,
    /// Boxes within a crop that overlap more than this are duplicates [default: 0.7]
    #[arg(long, value_name = "IOU")]
    box_nms_thresh: Option<f64>,
    /// Layers of crops; layer i cuts the picture into 2^i x 2^i parts [default: 0, dense: 1]
    #[arg(long, value_name = "N")]
    crop_n_layers: Option<usize>,
    /// Boxes of different crops that overlap more than this are duplicates [default: 0.7]
    #[arg(long, value_name = "IOU")]
    crop_nms_thresh: Option<f64>,
    /// Overlap of crops as a share of the shorter side [default: 512/1500]
    #[arg(long, value_name = "SHARE")]
    crop_overlap_ratio: Option<f64>,
    /// Layer i has points-per-side / FACTOR^i clicks a side [default: 1, dense: 2]
    #[arg(long, value_name = "FACTOR")]
    crop_n_points_downscale_factor: Option<usize>,
    /// Remove holes and islands of fewer pixels of the picture [default: 0, dense: 25]
    #[arg(long, value_name = "AREA")]
    min_mask_region_area: Option<u64>,
    /// Decode each mask once more with itself as a prompt [default: false, dense: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_m2m: Option<bool>,
    /// Three masks a click, or one [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    multimask_output: Option<bool>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Preset {
    /// The official defaults
    Default,
    /// The official notebook's: more and smaller masks, of eight times the clicks
    Dense,
}

impl SettingsArgs {
    pub(in crate::cli) fn settings(&self) -> Outcome<Settings> {
        let mut s = match self.preset {
            Preset::Default => Settings::default(),
            Preset::Dense => Settings::dense(),
        };
        macro_rules! overrule {
            ($($field:ident)*) => { $( if let Some(value) = self.$field { s.$field = value; } )* };
        }
        overrule!(
            points_per_side points_per_batch pred_iou_thresh stability_score_thresh stability_score_offset
            mask_threshold box_nms_thresh crop_n_layers crop_nms_thresh crop_overlap_ratio
            crop_n_points_downscale_factor min_mask_region_area use_m2m multimask_output
        );
        let shares = [("box-nms-thresh", s.box_nms_thresh), ("crop-nms-thresh", s.crop_nms_thresh)];
        for (flag, value) in shares.into_iter().chain([("crop-overlap-ratio", s.crop_overlap_ratio)]) {
            if !(0.0..=1.0).contains(&value) {
                return Err(Failure::Usage(format!("--{flag} takes a number from 0 to 1")));
            }
        }
        // The library checks the rest; here it is misuse, known before a model is loaded.
        s.check().map_err(|e| Failure::Usage(e.to_string()))?;
        Ok(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        settings: SettingsArgs,
    }

    fn settings(flags: &str) -> Outcome<Settings> {
        let args = std::iter::once("test").chain(flags.split_whitespace());
        Flags::try_parse_from(args).map_err(|e| Failure::Usage(e.to_string()))?.settings.settings()
    }

    #[test]
    fn flags_overrule_the_preset() {
        assert_eq!(settings("").unwrap(), Settings::default());
        assert_eq!(settings("--preset dense").unwrap(), Settings::dense());
        let expected = Settings { points_per_side: 8, use_m2m: false, mask_threshold: -1.5, ..Settings::dense() };
        let flags = "--use-m2m=false --preset dense --points-per-side 8 --mask-threshold -1.5";
        assert_eq!(settings(flags).unwrap(), expected);
        assert!(settings("--use-m2m").unwrap().use_m2m);
        assert!(!settings("--multimask-output=false").unwrap().multimask_output);
    }

    #[test]
    fn nonsense_is_misuse() {
        for flags in ["--points-per-side 0", "--box-nms-thresh 2", "--crop-n-layers 9", "--pred-iou-thresh nan"] {
            assert!(matches!(settings(flags), Err(Failure::Usage(_))), "{flags}");
        }
    }
}
