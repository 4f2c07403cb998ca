//! Buffers and tensors: allocation with a count of bytes, upload in bounded pieces, download.

use super::{Gpu, lock};
use crate::{
    error::{Error, ErrorKind, Result, ensure},
    shape::{DType, Shape},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
};

/// A buffer on the device; its bytes are counted until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    raw: wgpu::Buffer,
    total: Arc<AtomicU64>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.total.fetch_sub(self.raw.size(), Ordering::Relaxed);
    }
}

impl Buffer {
    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.0.raw.size()
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        &self.0.raw
    }

    /// Waits until the first `bytes` are mapped, passes them to `f`, and unmaps.
    pub(crate) async fn map_read<T>(&self, gpu: &Gpu, bytes: u64, f: impl FnOnce(&[u8]) -> T) -> Result<T> {
        self.map(gpu, wgpu::MapMode::Read, bytes).await?;
        let range = self.raw().slice(..bytes).get_mapped_range();
        let range = range.map_err(|e| Error::with_source(ErrorKind::Gpu, "cannot read a mapped buffer", e))?;
        let result = f(&range);
        drop(range);
        self.raw().unmap();
        Ok(result)
    }

    /// Waits until the first `bytes` are mapped, copies `parts` there one after the other, each at a multiple of
    /// eight, and unmaps.
    pub(crate) async fn map_write(&self, gpu: &Gpu, bytes: u64, parts: &[&[u8]]) -> Result<()> {
        self.map(gpu, wgpu::MapMode::Write, bytes).await?;
        let range = self.raw().slice(..bytes).get_mapped_range_mut();
        let mut range = range.map_err(|e| Error::with_source(ErrorKind::Gpu, "cannot write a mapped buffer", e))?;
        let mut at = 0;
        for part in parts {
            range.slice(at..at + part.len()).copy_from_slice(part);
            at += part.len().next_multiple_of(8);
        }
        drop(range);
        self.raw().unmap();
        Ok(())
    }

    async fn map(&self, gpu: &Gpu, mode: wgpu::MapMode, bytes: u64) -> Result<()> {
        let done = Signal::default();
        let set = done.clone();
        self.raw().slice(..bytes).map_async(mode, move |result| set.set(result.map_err(|e| e.to_string())));
        gpu.wait_idle()?;
        let result = done.wait().await;
        gpu.check()?;
        result.map_err(|e| Error::with_source(ErrorKind::Gpu, "cannot map a buffer", e))
    }
}

/// A result that a callback of the device sets and one task awaits.
pub(super) struct Signal<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Default for Signal<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((None, None))))
    }
}

impl<T> Clone for Signal<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Signal<T> {
    pub(super) fn set(&self, value: T) {
        let mut state = lock(&self.0);
        state.0 = Some(value);
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    pub(super) async fn wait(&self) -> T {
        std::future::poll_fn(|cx| {
            let mut state = lock(&self.0);
            match state.0.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    state.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Read and written by kernels, copied to and from.
    Storage,
    /// Kernel parameters.
    Uniform,
    /// Written by the host, then copied.
    Upload,
    /// Copied to, then read by the host.
    Download,
}

/// Bytes of the buffer that is made for so many.
pub(crate) fn buffer_bytes(bytes: u64) -> u64 {
    bytes.next_multiple_of(16).max(16)
}

impl Gpu {
    /// A buffer of at least `bytes`, zeroed.
    ///
    /// # Errors
    /// `OutOfMemory` if the device's limit forbids it or the device has no room.
    pub(crate) fn buffer(&self, label: &str, bytes: u64, usage: Usage) -> Result<Buffer> {
        let limit = self.target.limits.buffer;
        ensure!(bytes <= limit, OutOfMemory, "{label}: {bytes} bytes is more than one buffer of this device ({limit})");
        let usage = match usage {
            Usage::Storage => wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            Usage::Uniform => wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            Usage::Upload => wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            Usage::Download => wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        };
        let size = buffer_bytes(bytes);
        let allocated = self.inner.allocated.load(Ordering::Relaxed) + size;
        let most = self.inner.max_memory.unwrap_or(u64::MAX);
        ensure!(allocated <= most, OutOfMemory, "{label}: {bytes} more bytes than the {most} that may be used");
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        let raw = self.inner.device.create_buffer(&descriptor);
        self.check()?;
        let before = self.inner.allocated.fetch_add(size, Ordering::Relaxed);
        self.inner.peak.fetch_max(before + size, Ordering::Relaxed);
        self.inner.allocations.fetch_add(1, Ordering::Relaxed);
        Ok(Buffer(Arc::new(Counted { raw, total: self.inner.allocated.clone() })))
    }

    /// Copies `bytes` (a multiple of 4) into a buffer, before whatever is submitted next.
    pub(crate) fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) {
        self.inner.queue.write_buffer(buffer.raw(), offset, bytes);
    }

    /// All bytes of a buffer.
    ///
    /// # Errors
    /// What the device reports.
    pub(crate) async fn download(&self, buffer: &Buffer) -> Result<Vec<u8>> {
        let staging = self.buffer("read", buffer.bytes(), Usage::Download)?;
        self.copy(buffer, &staging, buffer.bytes())?;
        staging.map_read(self, buffer.bytes(), |b| b.to_vec()).await
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn zeros(&self, label: &str, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        let buffer = self.buffer(label, dtype.bytes(shape.count()) as u64, Usage::Storage)?;
        Ok(Tensor { buffer, shape, dtype })
    }

    /// A tensor with these bytes, laid out as `dtype` says.
    ///
    /// # Errors
    /// `Shape` if their number does not fit, `OutOfMemory`.
    pub fn upload(&self, label: &str, shape: impl Into<Shape>, dtype: DType, bytes: &[u8]) -> Result<Tensor> {
        let tensor = self.zeros(label, shape, dtype)?;
        tensor.fill(self, bytes)?;
        Ok(tensor)
    }
}

/// A buffer with a shape. Clones share the buffer.
#[derive(Clone, Debug)]
pub struct Tensor {
    buffer: Buffer,
    shape: Shape,
    dtype: DType,
}

/// Bytes staged before they are submitted: an upload holds this much twice, never a tensor and never a model.
const PIECE: usize = 16 << 20;

impl Tensor {
    /// A tensor in a buffer that is there: several may share it, one after the other.
    ///
    /// # Errors
    /// `Internal` if the buffer is too small.
    pub(crate) fn within(buffer: &Buffer, shape: Shape, dtype: DType) -> Result<Self> {
        let tensor = Self { buffer: buffer.clone(), shape, dtype };
        ensure!(tensor.bytes() <= buffer.bytes(), Internal, "{shape} as {dtype:?} in {} bytes", buffer.bytes());
        Ok(tensor)
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How the elements are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(self.shape.count()) as u64
    }

    /// The buffer.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Replaces all elements.
    ///
    /// # Errors
    /// `Shape` if the number of bytes does not fit; what the device reports.
    pub fn fill(&self, gpu: &Gpu, bytes: &[u8]) -> Result<()> {
        let expected = self.bytes();
        ensure!(bytes.len() as u64 == expected, Shape, "{} bytes for a tensor of {expected}", bytes.len());
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            gpu.write(&self.buffer, (i * PIECE) as u64, piece);
            let staged = gpu.inner.staged.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
            if staged > PIECE as u64 {
                gpu.flush()?;
            }
        }
        gpu.check()
    }

    /// Reads all elements back.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn read(&self, gpu: &Gpu) -> Result<Vec<u8>> {
        let mut bytes = gpu.download(&self.buffer).await?;
        bytes.truncate(self.bytes() as usize);
        Ok(bytes)
    }

    /// Tells two tensors apart, whatever their shape.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.buffer.0) as usize
    }
}
