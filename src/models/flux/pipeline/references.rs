//! Pictures that a run refers to: what becomes of them before they are encoded. After diffusers' `FluxKontextPipeline`,
//! and `Flux2KleinPipeline` with its `Flux2ImageProcessor`.

use super::super::{
    Version,
    sampling::{Size, image_ids},
};
use crate::{
    error::{Result, ensure},
    image::{Picture, resize},
};

/// Pictures that the transformer sees whole, as tokens after those of the picture that is made: what FLUX.1 Kontext edits,
/// what FLUX.2 edits or puts together. Each has its own size.
///
/// | model | pictures | size |
/// |---|---|---|
/// | FLUX.1 | 1 | resized to the one of the 17 sizes that Kontext was trained on whose aspect is nearest |
/// | FLUX.2 | 1 to 16 | of more than 1024 x 1024 pixels resized to as many; cut at the edges to multiples of 16 |
///
/// FLUX.1 dev and Krea take a reference, too, but were not trained to: nothing in their weights tells them from Kontext.
#[derive(Debug, Clone)]
pub struct References {
    /// The pictures, in the order in which a prompt may speak of them.
    pub pictures: Vec<Picture>,
    /// Keeps their sizes but for what multiples of 16 ask for: memory and time grow with their pixels.
    pub keep_size: bool,
}

/// The sizes of Kontext's training, width before height: `PREFERRED_KONTEXT_RESOLUTIONS`.
const KONTEXT: [[usize; 2]; 17] = [
    [672, 1568],
    [688, 1504],
    [720, 1456],
    [752, 1392],
    [800, 1328],
    [832, 1248],
    [880, 1184],
    [944, 1104],
    [1024, 1024],
    [1104, 944],
    [1184, 880],
    [1248, 832],
    [1328, 800],
    [1392, 752],
    [1456, 720],
    [1504, 688],
    [1568, 672],
];

/// Pixels of a reference of FLUX.2, its shorter side at least, and its longer side over the shorter at most.
const MOST_PIXELS: usize = 1024 * 1024;
const LEAST_SIDE: usize = 64;
const MOST_ASPECT: usize = 8;

impl References {
    /// References of FLUX.2 at most: more than it was trained with, a bound on what a typing error can ask for.
    pub const MOST: usize = 16;

    /// The size in which each is encoded.
    ///
    /// # Errors
    /// `Argument` for none or too many; for a picture whose side or aspect the model does not take.
    pub fn sizes(&self, version: Version) -> Result<Vec<Size>> {
        let n = self.pictures.len();
        ensure!(n > 0, Argument, "no pictures to refer to");
        match version {
            Version::Flux1 => {
                ensure!(n == 1, Argument, "{n} pictures to refer to: FLUX.1 takes one, put them side by side in it");
            }
            Version::Flux2 => {
                ensure!(n <= Self::MOST, Argument, "{n} pictures to refer to: FLUX.2 takes {} at most", Self::MOST);
            }
        }
        let size = |(i, p): (usize, &Picture)| {
            let size = size(version, [p.width(), p.height()], self.keep_size);
            size.map(|(_, size)| size).map_err(|e| e.context(format!("reference {}", i + 1)))
        };
        self.pictures.iter().enumerate().map(size).collect()
    }

    /// Each picture as it is encoded, with its size.
    pub(super) fn fitted(&self, version: Version) -> Result<Vec<(Picture, Size)>> {
        let sizes = self.sizes(version)?;
        let fit = |(p, size): (&Picture, Size)| {
            let ([width, height], _) = self::size(version, [p.width(), p.height()], self.keep_size)?;
            let resized = resize::lanczos(p, width, height)?;
            let (x, y) = ((width - size.width()) / 2, (height - size.height()) / 2);
            Ok((resized.crop([x, y, x + size.width(), y + size.height()])?, size))
        };
        self.pictures.iter().zip(sizes).map(fit).collect()
    }
}

/// Positions of the tokens of references of these sizes, one after the other.
pub(super) fn ids(version: Version, sizes: &[Size]) -> Vec<[u32; 4]> {
    let time = |i: usize| if version == Version::Flux1 { 1 } else { 10 + 10 * i as u32 };
    sizes.iter().enumerate().flat_map(|(i, size)| image_ids(time(i), size.rows(), size.columns())).collect()
}

/// The size to which a reference is resized, and what is then cut from its middle.
fn size(version: Version, [width, height]: [usize; 2], keep: bool) -> Result<([usize; 2], Size)> {
    let aspect = width as f64 / height as f64;
    match version {
        Version::Flux1 => {
            let far = |[w, h]: &[usize; 2]| (aspect - *w as f64 / *h as f64).abs();
            let nearest = KONTEXT.into_iter().min_by(|a, b| far(a).total_cmp(&far(b)));
            let [width, height] = nearest.filter(|_| !keep).unwrap_or([width, height]);
            let size = Size::floor(width, height)?;
            Ok(([size.width(), size.height()], size))
        }
        Version::Flux2 => {
            ensure!(
                width.min(height) >= LEAST_SIDE && width.max(height) <= MOST_ASPECT * width.min(height),
                Argument,
                "{width}x{height}: FLUX.2 takes sides of {LEAST_SIDE} pixels and more, one at most {MOST_ASPECT} times the other"
            );
            let pixels = width * height;
            let scale = (MOST_PIXELS as f64 / pixels as f64).sqrt();
            let resized = match pixels > MOST_PIXELS && !keep {
                true => [width, height].map(|side| (side as f64 * scale) as usize),
                false => [width, height],
            };
            Ok((resized, Size::floor(resized[0], resized[1])?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn picture(width: usize, height: usize) -> Picture {
        Picture::new(width, height, vec![0; 3 * width * height]).unwrap()
    }

    /// Values of diffusers 0.42.1.
    #[test]
    fn kontext_takes_the_nearest_of_its_sizes() {
        for (width, height, expected) in [
            (1024, 1024, [1024, 1024]),
            (1920, 1080, [1392, 752]),
            (1080, 1920, [752, 1392]),
            (64, 1000, [672, 1568]),
            (4000, 300, [1568, 672]),
            (1200, 1175, [1024, 1024]),
            (1333, 1000, [1184, 880]),
            (500, 333, [1248, 832]),
        ] {
            let (resized, size) = size(Version::Flux1, [width, height], false).unwrap();
            assert_eq!(([size.width(), size.height()], resized), (expected, expected), "{width}x{height}");
        }
        let kept = size(Version::Flux1, [500, 333], true).unwrap();
        assert_eq!(kept, ([496, 320], Size::exact(496, 320).unwrap()));
        // Its sizes are there as they are.
        assert!(KONTEXT.into_iter().all(|[w, h]| Size::exact(w, h).is_ok()));
    }

    /// Values of diffusers 0.42.1: the size after resizing, and what is cut from it.
    #[test]
    fn flux2_caps_and_cuts() {
        for (from, resized, cut) in [
            ([1024, 1024], [1024, 1024], [1024, 1024]),
            ([1025, 1024], [1024, 1023], [1024, 1008]),
            ([1920, 1080], [1365, 768], [1360, 768]),
            ([4000, 3000], [1182, 886], [1168, 880]),
            ([640, 481], [640, 481], [640, 480]),
            ([4096, 512], [2896, 362], [2896, 352]),
            ([1031, 1017], [1031, 1017], [1024, 1008]),
            ([3000, 4001], [886, 1182], [880, 1168]),
        ] {
            let size = size(Version::Flux2, from, false).unwrap();
            assert_eq!(size, (resized, Size::exact(cut[0], cut[1]).unwrap()), "{from:?}");
        }
        let kept = size(Version::Flux2, [1920, 1080], true).unwrap();
        assert_eq!(kept.1, Size::exact(1920, 1072).unwrap());
    }

    #[test]
    fn the_middle_is_cut_out() {
        let mut p = picture(100, 66);
        // The first pixel that stays: (100 - 96) / 2, (66 - 64) / 2.
        p.rgb_mut()[3 * (100 + 2)] = 7;
        let references = References { pictures: vec![p], keep_size: false };
        let fitted = references.fitted(Version::Flux2).unwrap().remove(0);
        assert_eq!((fitted.0.width(), fitted.0.height(), fitted.0.rgb()[0]), (96, 64, 7));
    }

    #[test]
    fn positions_tell_references_apart() {
        let sizes = [Size::exact(32, 16).unwrap(), Size::exact(16, 16).unwrap()];
        assert_eq!(ids(Version::Flux2, &sizes), [[10, 0, 0, 0], [10, 0, 1, 0], [20, 0, 0, 0]]);
        assert_eq!(ids(Version::Flux1, &sizes[..1]), [[1, 0, 0, 0], [1, 0, 1, 0]]);
    }

    #[test]
    fn what_cannot_be_referred_to_is_refused() {
        let refused = |version, pictures: Vec<Picture>, says: &str| {
            let e = References { pictures, keep_size: false }.sizes(version).unwrap_err();
            assert!(e.kind() == ErrorKind::Argument && e.to_string().contains(says), "{says}: {e}");
        };
        refused(Version::Flux2, vec![], "no pictures");
        refused(Version::Flux1, vec![picture(64, 64); 2], "side by side");
        refused(Version::Flux2, vec![picture(64, 64); 17], "16 at most");
        refused(Version::Flux2, vec![picture(64, 64), picture(63, 64)], "reference 2");
        refused(Version::Flux2, vec![picture(64, 513)], "64x513");
    }
}
