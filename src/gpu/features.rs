//! What an adapter has beyond limits and subgroups, as variants ask for it.

use super::AdapterInfo;
use crate::kernel::Feature;

/// The features of a device that was opened with `features` of wgpu.
pub(super) fn of(features: wgpu::Features, info: &AdapterInfo) -> Vec<Feature> {
    let f16 = features.contains(wgpu::Features::SHADER_F16).then_some(Feature::F16);
    let dot4 = fast_dot4(info).then_some(Feature::Dot4);
    let int64 = features.contains(wgpu::Features::SHADER_INT64).then_some(Feature::Int64);
    f16.into_iter().chain(dot4).chain(int64).collect()
}

/// The cooperative matrices that the shaders can use: 16 x 16 of f16 with f32 sums on Vulkan, 8 x 8 of f32 on Metal,
/// both only where a subgroup is known to be 32 threads, since a shader cannot ask (NVIDIA; Apple, where wgpu reports
/// 4 to 64 for every device).
pub(super) fn coop(adapter: &wgpu::Adapter, info: &AdapterInfo) -> Option<Feature> {
    if !adapter.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        return None;
    }
    let (side, operands, feature) = match (info.backend.as_str(), info.subgroup) {
        ("vulkan", [32, 32]) => (16, wgpu::CooperativeScalarType::F16, Feature::Coop16),
        ("metal", _) if info.name.contains("Apple") => (8, wgpu::CooperativeScalarType::F32, Feature::Coop8),
        _ => return None,
    };
    let fits = |c: &wgpu::CooperativeMatrixProperties| {
        [c.m_size, c.n_size, c.k_size] == [side; 3]
            && (c.ab_type, c.cr_type) == (operands, wgpu::CooperativeScalarType::F32)
    };
    adapter.cooperative_matrix_properties().iter().any(fits).then_some(feature)
}

/// Whether `dot4I8Packed` is one instruction. wgpu does not pass on what Vulkan tells about it, so it is known by
/// name; an unknown name counts as no, for the emulation takes some eight instructions for each. Metal has none.
/// A software adapter counts as one that has it: none of the rules for them asks, and the variants can be tested.
fn fast_dot4(info: &AdapterInfo) -> bool {
    let has = |names: &[&str]| names.iter().any(|name| info.name.contains(name));
    match (info.backend.as_str(), info.device_type.as_str(), info.vendor) {
        (_, "cpu", _) => true,
        // RDNA2 and later. Mesa appends the chip's name, the vendor's driver for Windows has the product's only.
        ("vulkan", _, 0x1002) => has(&[
            "NAVI2",
            "NAVI3",
            "NAVI4",
            "GFX115",
            "GFX12",
            "VANGOGH",
            "REMBRANDT",
            "RAPHAEL",
            "PHOENIX",
            "RX 6",
            "RX 7",
            "RX 9",
            "660M",
            "680M",
            "740M",
            "760M",
            "780M",
            "860M",
            "880M",
            "890M",
        ]),
        // Pascal and later.
        ("vulkan", _, 0x10de) => has(&["RTX", "GTX 10", "GTX 16"]),
        // Xe (Gen12) and later.
        ("vulkan", _, 0x8086) => {
            has(&["Arc", "Iris(R) Xe", "TGL", "RKL", "ADL", "RPL", "DG1", "DG2", "MTL", "ARL", "LNL", "BMG", "PTL"])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot4_is_known_by_name() {
        let fast = |backend: &str, vendor, name: &str| {
            fast_dot4(&AdapterInfo {
                name: name.into(),
                backend: backend.into(),
                device_type: "discrete".into(),
                driver: String::new(),
                vendor,
                subgroup: [32, 32],
                features: Vec::new(),
                max_binding: 0,
                max_buffer: 0,
                max_workgroup_memory: 0,
                max_invocations: 0,
            })
        };
        assert!(fast("vulkan", 0x1002, "AMD Radeon RX 6800 (RADV NAVI21)"));
        assert!(!fast("vulkan", 0x1002, "AMD Radeon RX 5700 XT (RADV NAVI10)"));
        assert!(fast("vulkan", 0x10de, "NVIDIA GeForce RTX 4090"));
        assert!(!fast("vulkan", 0x10de, "NVIDIA GeForce GTX 970"));
        assert!(fast("vulkan", 0x8086, "Intel(R) Arc(tm) A770 Graphics (DG2)"));
        assert!(!fast("vulkan", 0x8086, "Intel(R) UHD Graphics 630 (CFL GT2)"));
        assert!(!fast("metal", 0x106b, "Apple M2"));
        assert!(!fast("vulkan", 0x5143, "Adreno (TM) 740"));
    }
}
