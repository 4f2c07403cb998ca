//! Which family an adapter is of, by what it says of itself.

use super::AdapterInfo;
use crate::kernel::Family;

/// The family of an adapter: by PCI vendor where there is one, else by name.
pub(super) fn of(info: &AdapterInfo) -> Family {
    let named = |name| info.backend == "metal" && info.name.contains(name);
    match (info.device_type.as_str(), info.vendor) {
        ("cpu", _) => Family::Software,
        (_, 0x10de) => Family::Nvidia,
        // Wave64 only is what GCN is: RDNA reports 32 to 64. DX12 reports the same; without subgroups, RDNA.
        (_, 0x1002) if info.subgroup == [64, 64] => Family::Gcn,
        (_, 0x1002) => Family::Rdna,
        (_, 0x8086) => Family::Intel,
        (_, 0x106b) => Family::Apple,
        // Qualcomm, ARM, Imagination, Samsung, Broadcom, Vivante.
        (_, 0x5143 | 0x4d4f_4351 | 0x13b5 | 0x1010 | 0x144d | 0x14e4 | 0x7a05) => Family::Mobile,
        // Metal tells no vendor.
        _ if named("Apple") => Family::Apple,
        _ if named("AMD") => {
            // Radeon Pro 580 and Vega 20 are GCN, Pro 5500M and RX 6900 are RDNA.
            let digits = info.name.chars().filter(char::is_ascii_digit).count();
            if digits >= 4 { Family::Rdna } else { Family::Gcn }
        }
        _ if named("Intel") => Family::Intel,
        _ => Family::Unknown,
    }
}

/// Workgroups that keep it busy. Integrated AMD and Intel graphics have a quarter of a card's cores.
pub(super) fn busy(family: Family, info: &AdapterInfo) -> usize {
    let busy = family.rules().busy;
    let small = info.device_type == "integrated" && matches!(family, Family::Rdna | Family::Gcn | Family::Intel);
    if small { busy / 4 } else { busy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_of_known_adapters() {
        for (backend, kind, vendor, subgroup, name, family, groups) in [
            ("vulkan", "discrete", 0x1002, [32, 64], "AMD Radeon RX 6800 (RADV NAVI21)", Family::Rdna, 96),
            ("vulkan", "integrated", 0x1002, [32, 64], "AMD Radeon 780M (RADV PHOENIX)", Family::Rdna, 24),
            ("vulkan", "discrete", 0x1002, [64, 64], "AMD Radeon RX 580 Series (RADV POLARIS10)", Family::Gcn, 128),
            ("vulkan", "integrated", 0x1002, [64, 64], "AMD Radeon Vega 8 Graphics (RADV RENOIR)", Family::Gcn, 32),
            ("dx12", "discrete", 0x10de, [32, 32], "NVIDIA GeForce RTX 4090", Family::Nvidia, 96),
            ("vulkan", "integrated", 0x8086, [8, 32], "Intel(R) Xe Graphics (TGL GT2)", Family::Intel, 16),
            ("metal", "integrated", 0, [4, 64], "Apple M2", Family::Apple, 48),
            ("metal", "discrete", 0, [4, 64], "AMD Radeon Pro 5500M", Family::Rdna, 96),
            ("metal", "discrete", 0, [4, 64], "AMD Radeon Pro 580", Family::Gcn, 128),
            ("metal", "discrete", 0, [4, 64], "AMD Radeon Pro Vega 20", Family::Gcn, 128),
            ("metal", "discrete", 0, [4, 64], "AMD Radeon RX 6900 XT", Family::Rdna, 96),
            ("metal", "integrated", 0, [4, 64], "Intel(R) Iris(TM) Plus Graphics 655", Family::Intel, 16),
            ("vulkan", "integrated", 0x5143, [64, 128], "Adreno (TM) 740", Family::Mobile, 24),
            ("vulkan", "integrated", 0x13b5, [16, 16], "Mali-G715", Family::Mobile, 24),
            ("vulkan", "cpu", 0x10005, [8, 8], "llvmpipe (LLVM 15.0.6, 256 bits)", Family::Software, 8),
            ("webgpu", "other", 0, [0, 0], "", Family::Unknown, 96),
        ] {
            let (backend, device_type, name) = (backend.into(), kind.into(), name.to_string());
            let info = AdapterInfo { backend, device_type, name, vendor, subgroup, ..AdapterInfo::default() };
            assert_eq!((of(&info), busy(of(&info), &info)), (family, groups), "{}", info.name);
        }
    }
}
