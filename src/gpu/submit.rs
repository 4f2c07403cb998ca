//! Bind groups, submits, timestamps and waiting.

use super::{Gpu, Pipeline, buffer::Buffer, buffer::Signal, buffer::Usage};
use crate::error::{Error, ErrorKind, Result};
use std::{borrow::Borrow, sync::atomic::Ordering};

/// A range of a buffer as a kernel sees it.
pub(crate) struct Binding<'a> {
    pub(crate) buffer: &'a Buffer,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Buffers bound for one launch.
#[derive(Debug)]
pub(crate) struct Group(wgpu::BindGroup);

/// One launch, ready to play.
pub(crate) struct Launch<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) group: &'a Group,
    pub(crate) grid: [u32; 3],
}

/// Launches and copies recorded for one submit.
pub(crate) struct Submission<'a> {
    gpu: &'a Gpu,
    encoder: wgpu::CommandEncoder,
}

/// What to wait for.
pub(crate) struct Ticket(wgpu::SubmissionIndex);

impl Gpu {
    /// Binds buffers at 0, 1, 2 .. for a pipeline.
    ///
    /// # Errors
    /// `Gpu` if they do not suit the pipeline's layout.
    pub(crate) fn group(&self, label: &str, pipeline: &Pipeline, bindings: &[Binding<'_>]) -> Result<Group> {
        let entries: Vec<_> = bindings
            .iter()
            .enumerate()
            .map(|(i, b)| wgpu::BindGroupEntry {
                binding: i as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: b.buffer.raw(),
                    offset: b.offset,
                    size: wgpu::BufferSize::new(b.bytes),
                }),
            })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor { label: Some(label), layout: &pipeline.layout, entries: &entries };
        let group = self.inner.device.create_bind_group(&descriptor);
        self.check().map_err(|e| e.context(format!("binding {label}")))?;
        Ok(Group(group))
    }

    /// Starts recording a submit.
    pub(crate) fn submission(&self) -> Submission<'_> {
        Submission { gpu: self, encoder: self.inner.device.create_command_encoder(&Default::default()) }
    }

    /// Submits what `write` has queued and waits: staging memory is given back once the copies have run.
    pub(super) fn flush(&self) -> Result<()> {
        self.inner.staged.store(0, Ordering::Relaxed);
        let ticket = self.submission().submit();
        self.wait(&ticket)
    }

    /// Copies the first bytes of one buffer to another and submits.
    pub(crate) fn copy(&self, from: &Buffer, to: &Buffer, bytes: u64) -> Result<()> {
        let mut s = self.submission();
        s.copy(from, 0, to, 0, bytes);
        s.submit();
        self.check()
    }

    /// Blocks until a submit has run. In a browser nothing may block: there it returns at once.
    pub(crate) fn wait(&self, ticket: &Ticket) -> Result<()> {
        self.poll(wgpu::PollType::Wait { submission_index: Some(ticket.0.clone()), timeout: None })
    }

    /// Blocks until all submits have run and their callbacks were called. In a browser it returns at once.
    pub(super) fn wait_idle(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    fn poll(&self, kind: wgpu::PollType) -> Result<()> {
        let result = self.inner.device.poll(kind);
        self.check()?;
        match result {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::with_source(ErrorKind::Gpu, "waiting for the GPU", e)),
        }
    }

    /// Resolves when all that was submitted has run; browsers and native alike.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn done(&self) -> Result<()> {
        let signal = Signal::default();
        let set = signal.clone();
        self.inner.queue.on_submitted_work_done(move || set.set(()));
        self.wait_idle()?;
        signal.wait().await;
        self.check()
    }
}

impl Submission<'_> {
    /// Copies a range.
    pub(crate) fn copy(&mut self, from: &Buffer, from_offset: u64, to: &Buffer, to_offset: u64, bytes: u64) {
        self.encoder.copy_buffer_to_buffer(from.raw(), from_offset, to.raw(), to_offset, bytes);
    }

    /// Records launches in one pass; wgpu puts barriers where one reads what another wrote.
    pub(crate) fn launches<'l>(&mut self, launches: impl Iterator<Item = Launch<'l>>) {
        self.pass(None, launches);
    }

    /// The same; its beginning and end become queries `first` and `first + 1` of a set.
    fn pass<'l>(&mut self, times: Option<(&wgpu::QuerySet, u32)>, launches: impl Iterator<Item: Borrow<Launch<'l>>>) {
        let timestamp_writes = times.map(|(query_set, first)| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        });
        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
        let mut pass = self.encoder.begin_compute_pass(&descriptor);
        for l in launches {
            let l = l.borrow();
            pass.set_pipeline(&l.pipeline.raw);
            pass.set_bind_group(0, &l.group.0, &[]);
            pass.dispatch_workgroups(l.grid[0], l.grid[1], l.grid[2]);
        }
    }

    /// Sends it off.
    pub(crate) fn submit(self) -> Ticket {
        self.gpu.inner.submits.fetch_add(1, Ordering::Relaxed);
        Ticket(self.gpu.inner.queue.submit([self.encoder.finish()]))
    }
}

/// Queries of one set: a begin and an end for each launch. WebGPU allows 4096.
const QUERIES: usize = 4096;

impl Gpu {
    /// Runs launches one to a pass and returns the nanoseconds of the beginning and the end of each.
    ///
    /// # Errors
    /// `Gpu` if the adapter has no timestamps.
    pub(crate) async fn time<'l>(&self, launches: &[Launch<'l>]) -> Result<Vec<[f64; 2]>> {
        crate::error::ensure!(self.inner.timestamps, Gpu, "{} has no timestamp queries", self.inner.info.name);
        let period = f64::from(self.inner.queue.get_timestamp_period());
        let mut times = Vec::with_capacity(launches.len());
        for part in launches.chunks(QUERIES / 2) {
            let count = part.len() as u32 * 2;
            let set = self.query_set(count);
            let mut s = self.submission();
            for (i, launch) in part.iter().enumerate() {
                s.pass(Some((&set, i as u32 * 2)), std::iter::once(launch));
            }
            let ticks = self.resolve(s, &set, count).await?;
            times.extend(ticks.chunks(2).map(|t| [t[0] as f64 * period, t[1].max(t[0]) as f64 * period]));
        }
        Ok(times)
    }

    /// Runs launches in one pass and returns the nanoseconds from its beginning to its end.
    ///
    /// # Errors
    /// `Gpu` if the adapter has no timestamps.
    pub(crate) async fn time_together(&self, launches: &[Launch<'_>]) -> Result<f64> {
        crate::error::ensure!(self.inner.timestamps, Gpu, "{} has no timestamp queries", self.inner.info.name);
        let set = self.query_set(2);
        let mut s = self.submission();
        s.pass(Some((&set, 0)), launches.iter());
        let ticks = self.resolve(s, &set, 2).await?;
        Ok(ticks[1].saturating_sub(ticks[0]) as f64 * f64::from(self.inner.queue.get_timestamp_period()))
    }

    fn query_set(&self, count: u32) -> wgpu::QuerySet {
        self.inner.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("times"),
            ty: wgpu::QueryType::Timestamp,
            count,
        })
    }

    /// Submits, and reads the ticks of a query set.
    async fn resolve(&self, mut s: Submission<'_>, set: &wgpu::QuerySet, count: u32) -> Result<Vec<u64>> {
        let bytes = u64::from(count) * 8;
        let resolve = self.resolve_buffer(bytes);
        let staging = self.buffer("times", bytes, Usage::Download)?;
        s.encoder.resolve_query_set(set, 0..count, &resolve, 0);
        s.encoder.copy_buffer_to_buffer(&resolve, 0, staging.raw(), 0, bytes);
        s.submit();
        staging.map_read(self, bytes, bytemuck::pod_collect_to_vec::<u8, u64>).await
    }

    fn resolve_buffer(&self, bytes: u64) -> wgpu::Buffer {
        self.inner.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("times"),
            size: bytes,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    }
}
