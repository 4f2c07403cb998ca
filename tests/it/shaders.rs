//! Every text that the cases of every kernel can emit validates for SPIR-V, MSL and HLSL, and keeps the binding
//! convention: group 0, `Params` at 0 (starting with `base`), then the reads, then the writes.

use impasto::{graph::Graph, kernel::Target, kernels::ALL, wgsl};
use naga::{AddressSpace, StorageAccess, valid};
use std::collections::BTreeMap;

/// `(kernel/variant defines) -> (text, bytes of Params)` over all cases, classes and subgroup sizes.
fn emitted() -> BTreeMap<String, (String, usize)> {
    let mut texts = BTreeMap::new();
    for entry in ALL {
        for case in (entry.cases)() {
            for variant in entry.kernel.variants {
                let target = Target {
                    subgroup: variant.subgroup,
                    features: variant.needs().collect(),
                    forced: vec![(entry.kernel.name.into(), variant.name.into())],
                    ..Target::default()
                };
                let mut g = Graph::new(&target);
                if case.graph(&mut g).is_err() {
                    continue;
                }
                for d in g.dispatches() {
                    let defines: Vec<_> = d.variant.defines.iter().chain(&d.defines).copied().collect();
                    let text = wgsl::expand(d.kernel.name, d.kernel.source, &defines).unwrap();
                    let name = format!("{}/{} {:?}", d.kernel.name, d.variant.name, d.defines);
                    texts.insert(name, (text, d.params.len()));
                }
            }
        }
    }
    texts
}

#[test]
fn texts_validate_for_every_backend() {
    let texts = emitted();
    assert!(texts.len() >= ALL.len());
    for (name, (text, params)) in &texts {
        let module =
            naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
        let info = valid::Validator::new(
            valid::ValidationFlags::all(),
            valid::Capabilities::SUBGROUP
                | valid::Capabilities::SHADER_FLOAT16
                | valid::Capabilities::COOPERATIVE_MATRIX
                | valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32
                | valid::Capabilities::SHADER_INT64,
        )
        .subgroup_stages(valid::ShaderStages::COMPUTE)
        .subgroup_operations(valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
        convention(name, &module, *params);

        let options = naga::back::spv::Options::default();
        naga::back::spv::write_vec(&module, &info, &options, None).unwrap_or_else(|e| panic!("{name}: SPIR-V: {e}"));
        // Cooperative matrices exist in Vulkan, 16 x 16 only there, and in Metal, 8 x 8: Direct3D's are not mapped.
        if text.contains("coop_mat16x16") {
            continue;
        }
        let options =
            naga::back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        naga::back::msl::write_string(&module, &info, &options, &Default::default())
            .unwrap_or_else(|e| panic!("{name}: MSL: {e}"));
        if text.contains("coop_mat") {
            continue;
        }
        let options = naga::back::hlsl::Options {
            shader_model: naga::back::hlsl::ShaderModel::V6_2,
            fake_missing_bindings: true,
            ..Default::default()
        };
        let mut out = String::new();
        naga::back::hlsl::Writer::new(&mut out, &options, &Default::default())
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{name}: HLSL: {e}"));
    }
    println!("{} texts", texts.len());
}

fn convention(name: &str, module: &naga::Module, params: usize) {
    let mut bound: Vec<_> = module.global_variables.iter().filter_map(|(_, v)| Some((v.binding?, v))).collect();
    bound.sort_by_key(|(b, _)| b.binding);
    let mut writing = false;
    for (i, (binding, variable)) in bound.iter().enumerate() {
        assert_eq!((binding.group, binding.binding), (0, i as u32), "{name}: bindings are 0, 1, 2 .. of group 0");
        match variable.space {
            AddressSpace::Uniform => {
                assert_eq!(i, 0, "{name}: the uniform is at 0");
                let naga::TypeInner::Struct { members, span } = &module.types[variable.ty].inner else {
                    panic!("{name}: Params is a struct");
                };
                assert_eq!(members[0].name.as_deref(), Some("base"), "{name}: Params starts with base");
                assert_eq!(*span as usize, (16 + params).next_multiple_of(16), "{name}: size of Params");
            }
            AddressSpace::Storage { access } => {
                let writes = access.contains(StorageAccess::STORE);
                assert!(writes || !writing, "{name}: reads come before writes");
                writing |= writes;
            }
            other => panic!("{name}: binding {i} is {other:?}"),
        }
    }
    assert!(writing, "{name} writes nothing");
}

/// Chrome's compiler, where it is installed: naga is more lenient in places (uniformity, for one).
#[test]
fn texts_validate_with_tint_where_it_is_installed() {
    use std::process::Command;
    if Command::new("tint").arg("--version").output().is_err() {
        println!("tint is not installed: nothing checked");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // No browser has cooperative matrices through wgpu, nor 64-bit integers.
    let for_browsers = |text: &str| !["coop_mat", "u64"].iter().any(|word| text.contains(word));
    for (i, (name, (text, _))) in emitted().iter().filter(|(_, (text, _))| for_browsers(text)).enumerate() {
        let path = folder.path().join(format!("{i}.wgsl"));
        // A browser wants the extension named; naga rejects its name.
        let enable = if text.contains("subgroup") { "enable subgroups;\n" } else { "" };
        std::fs::write(&path, format!("{enable}{text}")).unwrap();
        let out = Command::new("tint").arg(&path).arg("-o").arg(folder.path().join("out.wgsl")).output().unwrap();
        assert!(out.status.success(), "{name}:\n{}", String::from_utf8_lossy(&out.stderr));
    }
}
