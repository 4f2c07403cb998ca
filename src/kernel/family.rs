//! Families of adapters, and the rule table: what variants are chosen by where nothing was measured.

use super::Class;
use serde::{Deserialize, Serialize};

/// A family of adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Maxwell and later.
    Nvidia,
    /// AMD from the RX 5000 on.
    Rdna,
    /// AMD before: Polaris, Vega, and the graphics of Ryzen 2000 to 5000.
    Gcn,
    /// Integrated graphics and Arc.
    Intel,
    /// M1 and later.
    Apple,
    /// Adreno, Mali, PowerVR and others of their size.
    Mobile,
    /// Hardware of which nothing is known: what a browser tells.
    Unknown,
    /// lavapipe, SwiftShader, WARP.
    Software,
}

/// A row of the rule table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Sums that an invocation may keep before too few invocations run at once: the register block of a tile.
    pub sums: u32,
    /// Workgroups that keep a mid-size discrete one busy: two or more on each core.
    pub busy: usize,
    /// Whether a tile of f16 with sums in f32 beats one of f32.
    pub half: bool,
}

impl Family {
    /// Hardware or software.
    pub fn class(self) -> Class {
        if self == Self::Software { Class::Software } else { Class::Gpu }
    }

    /// Its row of the rule table.
    ///
    /// The sums are from compiled code where there is a compiler (`cargo run --example gpu_report`): 64 sums take 100
    /// registers, which leaves RDNA five waves a SIMD and GCN two; and GCN converts f16 one by one, which costs its
    /// half tiles a quarter of the inner loop. Others from the size of their register files: NVIDIA gives an
    /// invocation 128 at half occupancy, Apple as many, Intel 64 when 16 run together, Adreno and Mali 32 to 64.
    pub fn rules(self) -> Rules {
        let (sums, busy, half) = match self {
            Self::Nvidia => (64, 96, true),
            Self::Rdna => (64, 96, true),
            Self::Gcn => (32, 128, false),
            Self::Intel => (32, 64, true),
            Self::Apple => (64, 48, true),
            Self::Mobile => (16, 24, true),
            // Most of what a browser meets is integrated graphics: 32 sums cost the others a sixth, 64 cost Intel more.
            Self::Unknown => (32, 96, true),
            // Its variants are chosen by the subgroup size alone.
            Self::Software => (32, 8, false),
        };
        Rules { sums, busy, half }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nvidia => "NVIDIA",
            Self::Rdna => "AMD RDNA",
            Self::Gcn => "AMD GCN",
            Self::Intel => "Intel",
            Self::Apple => "Apple",
            Self::Mobile => "mobile GPUs",
            Self::Unknown => "unknown GPUs",
            Self::Software => "software",
        })
    }
}
