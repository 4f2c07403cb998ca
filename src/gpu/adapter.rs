//! Which adapter to open, and what to ask it for.

use super::{Checks, family, features};
use crate::{
    error::{Result, bail},
    kernel::{Feature, Limits, Target, Tuning},
};
use serde::{Deserialize, Serialize};

/// How to choose and open an adapter. The default takes the best there is.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A part of the adapter's name (any case), or its index in [`adapters`]. `IMPASTO_ADAPTER` when `None`.
    pub adapter: Option<String>,
    /// `vulkan`, `metal` or `dx12`. `WGPU_BACKEND` when `None`.
    pub backend: Option<String>,
    /// Trusted or checked shaders.
    pub checks: Checks,
    /// Ask for WebGPU's default limits and no feature, whatever the adapter has: what a browser may give.
    pub default_limits: bool,
    /// Bind no more than this many bytes at once, even if the device could: a test of how plans cut large tensors.
    pub max_binding: Option<u64>,
    /// Be out of memory when buffers would take more than this: a test of what happens on a smaller GPU.
    pub max_memory: Option<u64>,
    /// Forced variants, `(kernel, variant)`.
    pub variants: Vec<(String, String)>,
    /// Do not look for what `impasto bench tune` has found: choose by rule.
    pub untuned: bool,
}

impl Options {
    /// The options with what the environment says filled in: `IMPASTO_ADAPTER`, `IMPASTO_CHECKED=1`,
    /// `IMPASTO_DEFAULT_LIMITS=1`, `IMPASTO_VARIANT=kernel=variant,..`, `IMPASTO_UNTUNED=1`. `WGPU_BACKEND` is read by
    /// wgpu.
    pub fn from_env() -> Self {
        let var = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
        let on = |name| var(name).is_some_and(|v| v != "0");
        let variants = var("IMPASTO_VARIANT").unwrap_or_default();
        Self {
            adapter: var("IMPASTO_ADAPTER"),
            backend: None,
            checks: if on("IMPASTO_CHECKED") { Checks::Checked } else { Checks::Trusted },
            default_limits: on("IMPASTO_DEFAULT_LIMITS"),
            max_binding: None,
            max_memory: None,
            variants: variants
                .split(',')
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
            untuned: on("IMPASTO_UNTUNED"),
        }
    }
}

/// What is known of an adapter without opening it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AdapterInfo {
    /// The adapter's name: `AMD Radeon RX 7900 XTX (RADV NAVI31)`.
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `webgpu`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub device_type: String,
    /// Driver and its version, as far as the backend tells.
    pub driver: String,
    /// PCI vendor, 0 where unknown.
    pub vendor: u32,
    /// The smallest and largest subgroup.
    pub subgroup: [u32; 2],
    /// The features of wgpu that impasto may use, where the adapter has them.
    pub features: Vec<String>,
    /// Bytes of one storage binding.
    pub max_binding: u64,
    /// Bytes of one buffer.
    pub max_buffer: u64,
    /// Bytes of workgroup memory.
    pub max_workgroup_memory: u32,
    /// Invocations of one workgroup.
    pub max_invocations: u32,
}

/// Features worth having; none is needed.
const WANTED: wgpu::Features = wgpu::Features::SUBGROUP
    .union(wgpu::Features::SHADER_F16)
    .union(wgpu::Features::TIMESTAMP_QUERY)
    .union(wgpu::Features::SHADER_INT64);

/// The adapters of this machine, best first.
pub async fn adapters(backend: Option<&str>) -> Result<Vec<AdapterInfo>> {
    Ok(enumerate(backend).await?.into_iter().map(|(_, info)| info).collect())
}

async fn enumerate(backend: Option<&str>) -> Result<Vec<(wgpu::Adapter, AdapterInfo)>> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let backends = match backend {
        None => wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY),
        Some("vulkan") => wgpu::Backends::VULKAN,
        Some("metal") => wgpu::Backends::METAL,
        Some("dx12") => wgpu::Backends::DX12,
        Some(other) => bail!(Argument, "unknown backend {other}: vulkan, metal or dx12"),
    };
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    let mut found: Vec<_> = instance.enumerate_adapters(backends).await.into_iter().map(describe).collect();
    let rank = |kind: &str| ["discrete", "integrated", "virtual", "other", "cpu"].iter().position(|k| *k == kind);
    found.sort_by_key(|(_, info)| rank(&info.device_type));
    Ok(found)
}

fn describe(adapter: wgpu::Adapter) -> (wgpu::Adapter, AdapterInfo) {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let device_type = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "cpu",
        wgpu::DeviceType::Other => "other",
    };
    let features = (features & WANTED).iter_names().map(|(n, _)| n.to_string()).collect();
    let described = AdapterInfo {
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        name: info.name,
        backend: info.backend.to_str().to_string(),
        device_type: device_type.to_string(),
        vendor: info.vendor,
        subgroup: [info.subgroup_min_size, info.subgroup_max_size],
        features,
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        max_workgroup_memory: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
    };
    (adapter, described)
}

pub(super) async fn choose(options: &Options) -> Result<(wgpu::Adapter, AdapterInfo)> {
    let mut all = enumerate(options.backend.as_deref()).await?;
    let Some(wanted) = &options.adapter else {
        if all.is_empty() {
            bail!(
                Gpu,
                "no GPU adapter found. Install a driver; without a GPU, a software Vulkan driver works \
                 (Debian, Ubuntu: apt-get install mesa-vulkan-drivers)"
            );
        }
        return Ok(all.swap_remove(0));
    };
    let index = wanted.parse().ok().filter(|i| *i < all.len());
    let name = wanted.to_lowercase();
    match index.or_else(|| all.iter().position(|(_, info)| info.name.to_lowercase().contains(&name))) {
        Some(i) => Ok(all.swap_remove(i)),
        None => {
            let names = all.iter().enumerate().map(|(i, (_, a))| format!("{i}: {} ({})", a.name, a.backend));
            bail!(Gpu, "no adapter matches `{wanted}`; there are: {}", names.collect::<Vec<_>>().join(", "))
        }
    }
}

pub(super) struct Request {
    pub(super) descriptor: wgpu::DeviceDescriptor<'static>,
    pub(super) target: Target,
    pub(super) unproven: Vec<Feature>,
    pub(super) timestamps: bool,
}

pub(super) fn request(adapter: &wgpu::Adapter, info: &AdapterInfo, options: &Options) -> Request {
    let coop = if options.default_limits { None } else { features::coop(adapter, info) };
    let (mut features, limits) = if options.default_limits {
        (wgpu::Features::empty(), wgpu::Limits::default())
    } else {
        (adapter.features() & WANTED, adapter.limits())
    };
    let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
    if coop.is_some() {
        features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        // SAFETY: "experimental" may misbehave where it is used: only by variants of the matmul kernel, which the
        // self-test has to have seen right first.
        experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    }
    let [min, max] = info.subgroup;
    let family = family::of(info);
    let target = Target {
        family,
        busy: family::busy(family, info),
        limits: Limits {
            binding: options.max_binding.unwrap_or(u64::MAX).min(limits.max_storage_buffer_binding_size),
            buffer: limits.max_buffer_size,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            invocations: limits.max_compute_invocations_per_workgroup,
            groups: limits.max_compute_workgroups_per_dimension,
            offset_alignment: limits.min_storage_buffer_offset_alignment,
        },
        subgroup: (features.contains(wgpu::Features::SUBGROUP) && min == max).then_some(min),
        features: features::of(features, info),
        forced: options.variants.clone(),
        tuning: Tuning::default(),
        tuned: None,
    };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("impasto"),
        required_features: features,
        required_limits: limits,
        experimental_features,
        ..Default::default()
    };
    let unproven = coop.into_iter().collect();
    Request { descriptor, target, unproven, timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY) }
}
