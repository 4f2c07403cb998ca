//! From WGSL to the SPIR-V that wgpu's Vulkan backend would hand to the driver, and what a driver needs to know of a module.

use naga::{
    back::spv,
    proc::{BoundsCheckPolicies, BoundsCheckPolicy},
    valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator},
};
use std::collections::BTreeMap;

/// What a binding holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A uniform buffer.
    Uniform,
    /// A storage buffer.
    Storage,
}

/// A compute shader in SPIR-V.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    /// The module.
    pub(crate) words: Vec<u32>,
    /// The name of the first entry point.
    pub(crate) entry: String,
    /// `(set, binding)` of each buffer.
    pub(crate) bindings: BTreeMap<(u32, u32), Kind>,
    /// Whether there are push constants.
    pub(crate) push: bool,
    /// Values of specialisation constants, by id.
    pub(crate) constants: Vec<(u32, u32)>,
}

/// Emits WGSL as wgpu 30 does in a release build on a Vulkan 1.3 device (wgpu-hal `vulkan/adapter.rs`, `naga_options`, and
/// `vulkan/device.rs`, `compile_stage`): trusted as `ShaderRuntimeChecks::unchecked()` without zeroed workgroup memory;
/// `checked` as `create_shader_module`, on a device with robustBufferAccess2.
///
/// # Errors
/// What naga reports.
pub(crate) fn from_wgsl(text: &str, checked: bool) -> Result<Module, String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16 | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|e| e.emit_to_string(text))?;
    let index = if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        capabilities: None,
        bounds_check_policies: BoundsCheckPolicies {
            index,
            buffer: BoundsCheckPolicy::Unchecked,
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: match checked {
            true => spv::ZeroInitializeWorkgroupMemoryMode::Native,
            false => spv::ZeroInitializeWorkgroupMemoryMode::None,
        },
        force_loop_bounding: checked,
        ray_query_initialization_tracking: checked,
        emit_int_div_checks: checked,
        use_storage_input_output_16: true,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".into() };
    let (module, info) = naga::back::pipeline_constants::process_overrides(
        &module,
        &info,
        Some((naga::ShaderStage::Compute, "main")),
        &Default::default(),
    )
    .map_err(|e| e.to_string())?;
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|e| e.to_string())?;
    Module::new(words)
}

// SPIR-V, section 3: opcodes, decorations and storage classes.
const MAGIC: u32 = 0x0723_0203;
const OP_ENTRY_POINT: u32 = 15;
const OP_VARIABLE: u32 = 59;
const OP_DECORATE: u32 = 71;
const BINDING: u32 = 33;
const DESCRIPTOR_SET: u32 = 34;
const UNIFORM: u32 = 2;
const PUSH_CONSTANT: u32 = 9;
const STORAGE_BUFFER: u32 = 12;

impl Module {
    /// Reads entry point and bindings off a module.
    ///
    /// # Errors
    /// If the words are no SPIR-V with an entry point, or a binding is neither a uniform nor a storage buffer.
    pub(crate) fn new(words: Vec<u32>) -> Result<Self, String> {
        if words.len() < 5 || words[0] != MAGIC {
            return Err("not a SPIR-V module".into());
        }
        let (mut entry, mut push) = (None, false);
        let (mut bindings, mut sets, mut classes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut rest = &words[5..];
        while let Some(&head) = rest.first() {
            let (op, len) = (head & 0xffff, (head >> 16) as usize);
            if len == 0 || len > rest.len() {
                return Err("a SPIR-V module that is cut off".into());
            }
            let (args, after) = (&rest[1..len], &rest[len..]);
            match (op, args) {
                (OP_ENTRY_POINT, [_, _, name @ ..]) if entry.is_none() => {
                    let bytes = name.iter().flat_map(|w| w.to_le_bytes()).take_while(|&b| b != 0).collect();
                    entry = Some(String::from_utf8(bytes).map_err(|e| e.to_string())?);
                }
                (OP_DECORATE, &[id, BINDING, n]) => _ = bindings.insert(id, n),
                (OP_DECORATE, &[id, DESCRIPTOR_SET, n]) => _ = sets.insert(id, n),
                (OP_VARIABLE, &[_, id, class, ..]) => _ = classes.insert(id, class),
                _ => {}
            }
            rest = after;
        }
        let mut found = BTreeMap::new();
        for (id, class) in classes {
            push |= class == PUSH_CONSTANT;
            let Some(&binding) = bindings.get(&id) else { continue };
            let kind = match class {
                UNIFORM => Kind::Uniform,
                STORAGE_BUFFER => Kind::Storage,
                _ => return Err(format!("binding {binding} is no buffer (storage class {class})")),
            };
            found.insert((sets.get(&id).copied().unwrap_or(0), binding), kind);
        }
        let entry = entry.ok_or("a SPIR-V module without an entry point")?;
        Ok(Self { words, entry, bindings: found, push, constants: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        @group(0) @binding(0) var<uniform> n: vec4<u32>;
        @group(0) @binding(1) var<storage, read> x: array<f32>;
        @group(0) @binding(2) var<storage, read_write> y: array<f32>;
        var<workgroup> sh: array<f32, 64>;
        @compute @workgroup_size(64)
        fn main(@builtin(local_invocation_index) i: u32) {
            sh[i] = x[i];
            workgroupBarrier();
            for (var k = 0u; k < n.x; k++) { y[i] += sh[k % n.y]; }
        }";

    #[test]
    fn bindings_are_read_off_the_module() {
        let module = from_wgsl(TEXT, false).unwrap();
        assert_eq!(module.entry, "main");
        assert!(!module.push);
        let kinds: Vec<_> = module.bindings.into_iter().collect();
        assert_eq!(kinds, [((0, 0), Kind::Uniform), ((0, 1), Kind::Storage), ((0, 2), Kind::Storage)]);
    }

    #[test]
    fn checks_cost_words() {
        // Clamped indices, a bounded loop, a guarded remainder, zeroed workgroup memory.
        let size = |checked| from_wgsl(TEXT, checked).unwrap().words.len();
        assert!(size(true) > size(false) + 40, "{} {}", size(true), size(false));
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert!(Module::new(vec![1, 2, 3, 4, 5]).unwrap_err().contains("not a SPIR-V"));
        let mut cut = from_wgsl(TEXT, false).unwrap().words;
        // The last two words end a block and the function.
        cut.truncate(cut.len() - 3);
        assert!(Module::new(cut).unwrap_err().contains("cut off"));
    }
}
