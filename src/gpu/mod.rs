//! The one door to the GPU: only this folder may write `wgpu::`.
//!
//! [`Gpu`] is an adapter with its device; [`Tensor`] a buffer with a shape; `Pipeline` a compiled kernel. All are
//! cheap to clone. Nothing here knows a kernel or a model.

mod adapter;
mod buffer;
mod family;
mod features;
mod pipeline;
mod submit;
#[cfg(not(target_arch = "wasm32"))]
pub mod tuning;

pub use adapter::{AdapterInfo, Options, adapters};
pub use buffer::{Buffer, Tensor};
pub(crate) use buffer::{Usage, buffer_bytes};
pub(crate) use pipeline::{Pipeline, text};
pub(crate) use submit::{Binding, Group, Launch, Submission};

use crate::{
    error::{Error, ErrorKind, Result},
    kernel::{Feature, Target},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Whether shaders run with the checks that wgpu injects: clamped indices, bounded loops, zeroed workgroup memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Checks {
    /// Without: the shipped mode on native. The tests show that every kernel gives the same bits in both.
    #[default]
    Trusted,
    /// With. Browsers always check, whatever is asked for.
    Checked,
}

/// An open device. Clones share it.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
    target: Arc<Target>,
}

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: AdapterInfo,
    /// Features that the device was opened with, but that nobody should rely on before they have proven right.
    unproven: Vec<Feature>,
    checks: Checks,
    timestamps: bool,
    pipelines: Mutex<HashMap<String, Pipeline>>,
    /// The first error that the device reported outside a call's own result.
    fault: Arc<Mutex<Option<Error>>>,
    allocated: Arc<AtomicU64>,
    /// The most that was allocated at one time.
    peak: AtomicU64,
    /// What buffers may take together: a test of a small device.
    max_memory: Option<u64>,
    allocations: AtomicU64,
    submits: AtomicU64,
    /// Bytes written since the last flush: they are staged until then.
    staged: AtomicU64,
}

impl Gpu {
    /// Opens an adapter at the best limits and features that it has.
    ///
    /// # Errors
    /// `Gpu` if no adapter matches `options` (the message lists those there are) or the device cannot be opened.
    pub async fn open(options: &Options) -> Result<Self> {
        let (adapter, info) = adapter::choose(options).await?;
        #[cfg_attr(target_arch = "wasm32", expect(unused_mut, reason = "browsers have the rules only"))]
        let mut request = adapter::request(&adapter, &info, options);
        #[cfg(not(target_arch = "wasm32"))]
        if !options.untuned {
            let found = tuning::path(&info).and_then(|path| tuning::load(&path, &info));
            request.target.tuning = found.unwrap_or_default();
        }
        if crate::trace::active().is_some() && !request.timestamps {
            tracing::warn!("{} has no timestamp queries: the trace has the host's slices only", info.name);
        }
        let (device, queue) = adapter
            .request_device(&request.descriptor)
            .await
            .map_err(|e| Error::with_source(ErrorKind::Gpu, format!("cannot open {}", info.name), e))?;

        let fault = Arc::new(Mutex::new(None));
        let first = fault.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            lock(&first).get_or_insert_with(|| typed(e));
        }));
        let lost = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the last handle also ends here, with nobody left to tell.
            *lock(&lost) = Some(Error::new(
                ErrorKind::DeviceLost,
                format!("the GPU device was lost ({reason:?}): {message}; open it again and rebuild the session"),
            ));
        });
        tracing::debug!(adapter = info.name, backend = info.backend, target = ?request.target, "device opened");
        Ok(Self {
            target: Arc::new(request.target),
            inner: Arc::new(Inner {
                device,
                queue,
                unproven: request.unproven,
                checks: options.checks,
                timestamps: request.timestamps,
                info,
                pipelines: Mutex::default(),
                fault,
                allocated: Arc::default(),
                peak: AtomicU64::new(0),
                max_memory: options.max_memory,
                allocations: AtomicU64::new(0),
                submits: AtomicU64::new(0),
                staged: AtomicU64::new(0),
            }),
        })
    }

    /// What was opened.
    pub fn info(&self) -> &AdapterInfo {
        &self.inner.info
    }

    /// What recordings for this device may assume.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What the adapter claims to have beyond [`Gpu::target`]: cooperative matrices, which drivers get wrong.
    /// [`selftest::open`](crate::selftest::open) tries them.
    pub fn unproven(&self) -> &[Feature] {
        &self.inner.unproven
    }

    /// The same device for recordings that use `feature`, too.
    #[must_use]
    pub fn with(&self, feature: Feature) -> Self {
        let mut target = Target::clone(&self.target);
        target.features.push(feature);
        Self { inner: self.inner.clone(), target: Arc::new(target) }
    }

    /// Whether shaders run checked.
    pub fn checks(&self) -> Checks {
        self.inner.checks
    }

    /// Whether dispatches can be timed on the device.
    pub fn has_timestamps(&self) -> bool {
        self.inner.timestamps
    }

    /// Bytes of the buffers alive now.
    pub fn allocated_bytes(&self) -> u64 {
        self.inner.allocated.load(Ordering::Relaxed)
    }

    /// The most bytes of buffers that were alive at one time since the device was opened.
    pub fn peak_bytes(&self) -> u64 {
        self.inner.peak.load(Ordering::Relaxed)
    }

    /// The number of buffers made so far: does not move while bound plans are replayed.
    pub fn allocations(&self) -> u64 {
        self.inner.allocations.load(Ordering::Relaxed)
    }

    /// The number of submits so far.
    pub fn submits(&self) -> u64 {
        self.inner.submits.load(Ordering::Relaxed)
    }

    /// Gives up the device: what follows fails with `DeviceLost`. For tests of recovery.
    pub fn destroy(&self) {
        self.inner.device.destroy();
        // The callback comes with the next poll; nobody should have to wait for it.
        let _ = self.inner.device.poll(wgpu::PollType::Poll);
        lock(&self.inner.fault).get_or_insert_with(|| {
            Error::new(ErrorKind::DeviceLost, "the GPU device was destroyed; open it again and rebuild the session")
        });
    }

    /// The error that the device has reported since the last look, if any. A lost device stays lost.
    ///
    /// # Errors
    /// That error: `OutOfMemory`, `DeviceLost`, or `Gpu` for a validation failure.
    pub(crate) fn check(&self) -> Result<()> {
        let mut fault = lock(&self.inner.fault);
        match fault.as_ref().map(Error::kind) {
            None => Ok(()),
            Some(ErrorKind::DeviceLost) => {
                Err(Error::new(ErrorKind::DeviceLost, fault.as_ref().map(Error::to_string).unwrap_or_default()))
            }
            Some(_) => Err(fault.take().unwrap_or_else(|| Error::new(ErrorKind::Internal, "no fault"))),
        }
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("info", &self.inner.info).finish_non_exhaustive()
    }
}

fn typed(e: wgpu::Error) -> Error {
    match e {
        wgpu::Error::OutOfMemory { .. } => {
            Error::new(ErrorKind::OutOfMemory, "the GPU is out of memory; try a smaller model, image side or batch")
        }
        other => Error::with_source(ErrorKind::Gpu, "the GPU refused a command", other.to_string()),
    }
}

/// A poisoned lock still holds whole values here: nothing panics half-way through an update.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
