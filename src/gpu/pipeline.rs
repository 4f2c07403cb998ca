//! Kernel text to pipeline: expand, compile once, keep.

use super::{Checks, Gpu, lock};
use crate::{
    error::{Error, Result},
    kernel::{Kernel, Variant},
    trace, wgsl,
};

/// A compiled kernel.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub(super) raw: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// Everything that a variant's text is expanded with.
pub(crate) fn text(kernel: &Kernel, variant: &Variant, defines: &[(&str, i64)]) -> Result<String> {
    let all: Vec<(&str, i64)> = variant.defines.iter().chain(defines).copied().collect();
    wgsl::expand(kernel.name, kernel.source, &all)
}

impl Gpu {
    /// The pipeline for a kernel, a variant and the defines of a dispatch; compiled at the first call.
    ///
    /// # Errors
    /// `Gpu` if the shader does not compile, with kernel and variant.
    pub(crate) fn pipeline(&self, kernel: &Kernel, variant: &Variant, defines: &[(&str, i64)]) -> Result<Pipeline> {
        let text = text(kernel, variant, defines)?;
        if let Some(pipeline) = lock(&self.inner.pipelines).get(&text) {
            return Ok(pipeline.clone());
        }
        let _span = trace::span(|| format!("compile {}/{}", kernel.name, variant.name));
        let checked = self.inner.checks == Checks::Checked;
        let device = &self.inner.device;
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name),
            source: wgpu::ShaderSource::Wgsl(text.as_str().into()),
        };
        let module = if checked {
            device.create_shader_module(descriptor)
        } else {
            // SAFETY: only impasto's own shaders come here. The tests run every variant of every kernel in both
            // modes, between guard bands, and compare them bit for bit: none reads or writes out of bounds.
            unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: checked,
                ..Default::default()
            },
            cache: None,
        });
        let failed = |e: Error| e.context(format!("compiling {}/{} {defines:?}", kernel.name, variant.name));
        self.check().map_err(failed)?;
        let layout = raw.get_bind_group_layout(0);
        self.check().map_err(failed)?;
        let pipeline = Pipeline { raw, layout };
        lock(&self.inner.pipelines).insert(text, pipeline.clone());
        Ok(pipeline)
    }
}
