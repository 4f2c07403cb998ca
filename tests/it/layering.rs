//! The direction of the layers, read off the `use crate::` paths: each module may use only what lies below it.

use std::{fs, path::Path};

/// From the ground up. Modules of one line may not use each other.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["shape"],
    &["quant", "kernel", "wgsl", "image", "trace"],
    &["gpu", "weights"],
    &["graph"],
    &["kernels"],
    &["nn", "selftest"],
    &["bench", "text"],
    &["models"],
];

fn level(module: &str) -> usize {
    let level = LAYERS.iter().position(|l| l.contains(&module));
    level.unwrap_or_else(|| panic!("src/{module} has no layer: give it one in tests/it/layering.rs"))
}

fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The modules after `crate::` in a line or a braced group.
fn used(text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        // `$crate::` and `impasto_crate::` are other things.
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => modules.push(std::mem::take(&mut word)),
                    _ if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            modules.push(word);
        } else {
            modules.push(rest.to_string());
        }
    }
    let first = |m: String| m.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    // A capital is a name that the crate root re-exports.
    modules.into_iter().map(first).filter(|m| m.starts_with(|c: char| c.is_ascii_lowercase())).collect()
}

#[test]
fn no_module_uses_what_lies_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 20, "found only {} files", files.len());
    let mut edges = 0;
    for file in files {
        let name = file.strip_prefix(&src).unwrap();
        let module = name.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_string();
        let text: String = fs::read_to_string(&file).unwrap();
        let code: String =
            text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect();
        if module != "gpu" {
            assert!(!code.contains("wgpu::"), "{}: only src/gpu may write wgpu::", name.display());
        }
        // The binary's modules use the library by its name, and everything in it.
        if ["main", "cli", "lib"].contains(&module.as_str()) {
            continue;
        }
        for other in used(&code).into_iter().filter(|o| *o != module) {
            assert!(level(&other) < level(&module), "{}: {module} may not use {other}", name.display());
            edges += 1;
        }
    }
    assert!(edges > 40, "only {edges} uses were read: has the way of writing them changed?");
}

#[test]
fn uses_are_read() {
    assert_eq!(used("use crate::error::Result;"), ["error"]);
    assert_eq!(used("use crate::{\n    error::{Result, bail},\n    gpu::Gpu,\n    Error,\n};"), ["error", "gpu"]);
    assert_eq!(used("let a = crate::shape::Shape::new(&[]);"), ["shape"]);
}
