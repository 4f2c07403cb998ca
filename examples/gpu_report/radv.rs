//! Mesa's RADV on its null device: a real AMD compiler that needs no GPU.

use crate::spirv::{Kind, Module};
use ash::vk;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    path::PathBuf,
};

/// What the compiler tells of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// Vector registers of a lane.
    pub(crate) vgpr: u64,
    /// Scalar registers of a wave.
    pub(crate) sgpr: u64,
    /// Vector registers that did not fit.
    pub(crate) spilled_vgpr: u64,
    /// Scalar registers that did not fit.
    pub(crate) spilled_sgpr: u64,
    /// Bytes of scratch memory of a lane.
    pub(crate) scratch: u64,
    /// Bytes of workgroup memory.
    pub(crate) lds: u64,
    /// Subgroups that a SIMD holds at once. On RDNA Mesa counts halves of a wave of 64 here.
    pub(crate) occupancy: u64,
    /// Instructions.
    pub(crate) instructions: u64,
}

/// Sets what the Vulkan loader and RADV read at start: to be called for the child process of a family.
///
/// # Errors
/// If RADV is not installed.
pub(crate) fn environment(family: &str) -> Result<Vec<(&'static str, String)>, String> {
    let given = std::env::var("VK_DRIVER_FILES").or_else(|_| std::env::var("VK_ICD_FILENAMES")).ok();
    let driver = match given.filter(|files| files.contains("radeon")) {
        Some(files) => files,
        None => installed()?.display().to_string(),
    };
    let runtime = std::env::var("XDG_RUNTIME_DIR").unwrap_or_else(|_| std::env::temp_dir().display().to_string());
    Ok(vec![
        ("RADV_FORCE_FAMILY", family.into()),
        ("VK_DRIVER_FILES", driver.clone()),
        ("VK_ICD_FILENAMES", driver),
        ("XDG_RUNTIME_DIR", runtime),
        // The layer that sorts devices asks the null device for what it does not have.
        ("NODEVICE_SELECT", "1".into()),
        ("MESA_SHADER_CACHE_DISABLE", "true".into()),
    ])
}

fn installed() -> Result<PathBuf, String> {
    let folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let files = folders.iter().flat_map(|f| std::fs::read_dir(f).into_iter().flatten().flatten());
    let name = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("radeon_icd"));
    files.map(|f| f.path()).find(name).ok_or_else(|| {
        "Mesa's RADV is not installed: no radeon_icd*.json in /usr/share/vulkan/icd.d (Debian, Ubuntu: apt-get install \
         mesa-vulkan-drivers); or name it in VK_DRIVER_FILES"
            .into()
    })
}

/// The null device of one family.
pub(crate) struct Radv {
    /// Kept: it holds the library.
    _entry: ash::Entry,
    device: ash::Device,
    properties: ash::khr::pipeline_executable_properties::Device,
    /// `Mesa 22.3.6`
    pub(crate) driver: String,
}

impl Radv {
    /// Opens the device that the environment names, with the features that wgpu would ask for.
    ///
    /// # Errors
    /// If there is no Vulkan loader or no null device.
    pub(crate) fn open() -> Result<Self, String> {
        // SAFETY: loading libvulkan runs its initialisers, as in every Vulkan program.
        let entry = unsafe { ash::Entry::load() }
            .map_err(|e| format!("no Vulkan loader ({e}); Debian, Ubuntu: apt-get install libvulkan1"))?;
        // SAFETY: handles are used with the instance or device that made them, while it lives, and every structure
        // outlives the call that reads it.
        unsafe {
            let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let info = vk::InstanceCreateInfo::default().application_info(&app);
            let instance = entry.create_instance(&info, None).map_err(|e| format!("no Vulkan instance: {e}"))?;
            let devices = instance.enumerate_physical_devices().map_err(|e| format!("no Vulkan device: {e}"))?;
            let physical = *devices.first().ok_or("RADV offers no null device of this family")?;
            let name = text(&instance.get_physical_device_properties(physical).device_name);
            if !name.contains("Null hardware (RADV") {
                return Err(format!("{name} is not RADV's null device"));
            }

            let mut about = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut about);
            instance.get_physical_device_properties2(physical, &mut properties);
            let driver = text(&about.driver_info);

            // As wgpu-hal opens a device: robust buffers, subgroups that may vary, and what the family has of the rest.
            let mut has12 = vk::PhysicalDeviceVulkan12Features::default();
            let mut has = vk::PhysicalDeviceFeatures2::default().push_next(&mut has12);
            instance.get_physical_device_features2(physical, &mut has);
            let core = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
            let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
            let mut v12 = vk::PhysicalDeviceVulkan12Features::default()
                .shader_float16(has12.shader_float16 != 0)
                .shader_int8(has12.shader_int8 != 0);
            let mut v13 = vk::PhysicalDeviceVulkan13Features::default()
                .subgroup_size_control(true)
                .shader_zero_initialize_workgroup_memory(true)
                .shader_integer_dot_product(true)
                .maintenance4(true);
            let mut executable =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let extensions = [vk::KHR_PIPELINE_EXECUTABLE_PROPERTIES_NAME.as_ptr(), vk::EXT_ROBUSTNESS2_NAME.as_ptr()];
            let queue = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            let info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queue)
                .enabled_extension_names(&extensions)
                .enabled_features(&core)
                .push_next(&mut robust)
                .push_next(&mut v12)
                .push_next(&mut v13)
                .push_next(&mut executable);
            let device = instance.create_device(physical, &info, None).map_err(|e| format!("{name}: {e}"))?;
            let properties = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Self { _entry: entry, device, properties, driver })
        }
    }

    /// Compiles a compute shader: statistics and ISA text.
    ///
    /// # Errors
    /// What the driver reports.
    pub(crate) fn compile(&self, module: &Module) -> Result<(Stats, String), String> {
        // SAFETY: as in `open`; what is made is destroyed at the end, or with the process after an error.
        unsafe { self.pipeline(module) }.map_err(|e| format!("RADV: {e}"))
    }

    unsafe fn pipeline(&self, module: &Module) -> Result<(Stats, String), vk::Result> {
        let device = &self.device;
        let mut sets: BTreeMap<u32, Vec<vk::DescriptorSetLayoutBinding<'_>>> = BTreeMap::new();
        for (&(set, binding), kind) in &module.bindings {
            let kind = match kind {
                Kind::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
                Kind::Storage => vk::DescriptorType::STORAGE_BUFFER,
            };
            let layout = vk::DescriptorSetLayoutBinding::default().binding(binding).descriptor_type(kind);
            sets.entry(set).or_default().push(layout.descriptor_count(1).stage_flags(vk::ShaderStageFlags::COMPUTE));
        }
        let groups = sets.keys().last().map_or(0, |n| n + 1);
        let push = [vk::PushConstantRange::default().stage_flags(vk::ShaderStageFlags::COMPUTE).size(128)];
        let (ids, values): (Vec<u32>, Vec<u32>) = module.constants.iter().copied().unzip();
        let entries: Vec<_> = (0u32..)
            .zip(&ids)
            .map(|(i, &id)| vk::SpecializationMapEntry::default().constant_id(id).offset(4 * i).size(4))
            .collect();
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        let special = vk::SpecializationInfo::default().map_entries(&entries).data(&data);
        let name = CString::new(module.entry.as_str()).map_err(|_| vk::Result::ERROR_UNKNOWN)?;

        // SAFETY: as in `open`.
        unsafe {
            let layouts = (0..groups)
                .map(|set| {
                    let bindings = sets.get(&set).map(Vec::as_slice).unwrap_or_default();
                    let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(bindings);
                    device.create_descriptor_set_layout(&info, None)
                })
                .collect::<Result<Vec<_>, _>>()?;
            let mut info = vk::PipelineLayoutCreateInfo::default().set_layouts(&layouts);
            if module.push {
                info = info.push_constant_ranges(&push);
            }
            let layout = device.create_pipeline_layout(&info, None)?;
            let shader =
                device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&module.words), None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(shader)
                .name(&name)
                .specialization_info(&special);
            let capture = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let info = [vk::ComputePipelineCreateInfo::default().flags(capture).layout(layout).stage(stage)];
            let pipeline =
                device.create_compute_pipelines(vk::PipelineCache::null(), &info, None).map_err(|(_, e)| e)?[0];
            let result = self.read(pipeline);
            device.destroy_pipeline(pipeline, None);
            device.destroy_shader_module(shader, None);
            device.destroy_pipeline_layout(layout, None);
            layouts.into_iter().for_each(|l| device.destroy_descriptor_set_layout(l, None));
            result
        }
    }

    /// # Safety
    /// The pipeline is one of this device, made with both capture flags.
    unsafe fn read(&self, pipeline: vk::Pipeline) -> Result<(Stats, String), vk::Result> {
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: as the caller says; RADV's statistics are all 64-bit integers.
        let found = unsafe { self.properties.get_pipeline_executable_statistics(&info)? };
        let stat = |name: &str| {
            let value = found.iter().find(|s| text(&s.name) == name);
            // SAFETY: as above.
            value.map(|s| unsafe { s.value.u64 }).ok_or(vk::Result::ERROR_FEATURE_NOT_PRESENT)
        };
        let stats = Stats {
            vgpr: stat("VGPRs")?,
            sgpr: stat("SGPRs")?,
            spilled_vgpr: stat("Spilled VGPRs")?,
            spilled_sgpr: stat("Spilled SGPRs")?,
            scratch: stat("Scratch size")?,
            lds: stat("LDS size")?,
            occupancy: stat("Subgroups per SIMD")?,
            instructions: stat("Instructions")?,
        };
        // The first call tells the sizes, the second fills the buffers.
        // SAFETY: each buffer has the size that the driver asked for, and lives until the text is taken out.
        unsafe {
            let mut all = self.properties.get_pipeline_executable_internal_representations(&info)?;
            let mut buffers: Vec<Vec<u8>> = all.iter().map(|r| vec![0; r.data_size]).collect();
            for (r, buffer) in all.iter_mut().zip(&mut buffers) {
                r.p_data = buffer.as_mut_ptr().cast();
            }
            let mut count = all.len() as u32;
            let get = self.properties.fp().get_pipeline_executable_internal_representations_khr;
            get(self.device.handle(), &info, &mut count, all.as_mut_ptr()).result()?;
            let isa = all.iter().position(|r| text(&r.name).contains("Assembly"));
            let bytes = isa.map(|i| std::mem::take(&mut buffers[i])).ok_or(vk::Result::ERROR_FEATURE_NOT_PRESENT)?;
            Ok((stats, String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string()))
        }
    }
}

fn text(chars: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|&c| c as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}
