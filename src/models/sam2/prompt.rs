//! What a user asks of a picture: points, a box, a mask.

use crate::{
    error::{Result, ensure},
    image::Mask,
};

/// A click, in pixels of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// From the left edge; fractions are meaningful.
    pub x: f32,
    /// From the top edge.
    pub y: f32,
    /// On the object, or on what is not the object.
    pub positive: bool,
}

/// A mask to start from.
#[derive(Debug, Clone, PartialEq)]
pub enum MaskPrompt {
    /// Logits at a quarter of the model's side, row by row: the `low_res` of an earlier prediction, to refine it.
    Logits(Vec<f32>),
    /// A binary mask of any size; it is resized with antialiasing and turned into logits of +-10.
    Binary(Mask),
}

/// One object to segment. Empty is allowed: then the model segments what it thinks is there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prompt {
    /// Clicks.
    pub points: Vec<Point>,
    /// `[x0, y0, x1, y1]` in pixels.
    pub bounds: Option<[f32; 4]>,
    /// A mask.
    pub mask: Option<MaskPrompt>,
}

impl Prompt {
    /// One positive click.
    pub fn point(x: f32, y: f32) -> Self {
        Self::default().and_point(x, y, true)
    }

    /// A box around the object.
    pub fn bounds(bounds: [f32; 4]) -> Self {
        Self { bounds: Some(bounds), ..Self::default() }
    }

    /// This prompt and another click.
    #[must_use]
    pub fn and_point(mut self, x: f32, y: f32, positive: bool) -> Self {
        self.points.push(Point { x, y, positive });
        self
    }

    /// This prompt and a mask.
    #[must_use]
    pub fn and_mask(mut self, mask: MaskPrompt) -> Self {
        self.mask = Some(mask);
        self
    }

    /// What no picture could satisfy.
    ///
    /// # Errors
    /// `Argument` for a coordinate that is no number, and a reversed or empty box.
    pub fn check_numbers(&self) -> Result<()> {
        for p in &self.points {
            ensure!(p.x.is_finite() && p.y.is_finite(), Argument, "the point {},{} is not two numbers", p.x, p.y);
        }
        if let Some([x0, y0, x1, y1]) = self.bounds {
            let finite = [x0, y0, x1, y1].iter().all(|v| v.is_finite());
            ensure!(finite, Argument, "the box {x0},{y0},{x1},{y1} is not four numbers");
            ensure!(x0 < x1 && y0 < y1, Argument, "the box {x0},{y0},{x1},{y1} is empty or reversed: give X0,Y0,X1,Y1");
        }
        Ok(())
    }

    /// # Errors
    /// `Argument` as [`check_numbers`](Self::check_numbers), and for what lies outside a picture of `width` x `height`.
    pub fn check_inside(&self, width: usize, height: usize) -> Result<()> {
        self.check_numbers()?;
        let inside = |x: f32, y: f32| (0.0..=width as f32).contains(&x) && (0.0..=height as f32).contains(&y);
        for p in &self.points {
            ensure!(inside(p.x, p.y), Argument, "the point {},{} is outside the picture of {width}x{height}", p.x, p.y);
        }
        if let Some([x0, y0, x1, y1]) = self.bounds {
            ensure!(
                inside(x0, y0) && inside(x1, y1),
                Argument,
                "the box {x0},{y0},{x1},{y1} is not inside the picture of {width}x{height}"
            );
        }
        Ok(())
    }

    /// # Errors
    /// `Argument` as [`check_inside`](Self::check_inside), and for logits of the wrong number or that are no numbers.
    pub(super) fn check(&self, width: usize, height: usize, low: usize) -> Result<()> {
        self.check_inside(width, height)?;
        if let Some(MaskPrompt::Logits(logits)) = &self.mask {
            ensure!(logits.len() == low * low, Argument, "a mask prompt has {low}x{low} logits, not {}", logits.len());
            ensure!(logits.iter().all(|l| l.is_finite()), Argument, "a mask prompt holds NaN or infinity");
        }
        Ok(())
    }
}
