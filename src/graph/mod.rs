//! Record: a [`Graph`] is a list of dispatches over values, plain data, printed, planned and played.
//!
//! There is no op enum and no optimiser: a kernel function checks shapes and appends a [`Dispatch`]. A scope
//! path (`image_encoder.trunk.blocks.3.attn`) names dispatches for errors, the profiler, taps and the dump.

mod bind;
mod call;
mod dump;
mod plan;
mod play;
mod pool;
mod time;
mod upload;

pub use bind::{Bound, Options as BindOptions};
pub use call::{Call, CallInput, Recorded};
pub use plan::Plan;
pub use play::{Control, DispatchTime};
pub use pool::SlotPool;
pub use time::{Clock, Elapsed, time};
pub use upload::Source;

use crate::{
    error::{Result, ensure},
    gpu::{self, Tensor},
    kernel::{Kernel, Target, Variant},
    shape::{DType, Shape},
};
use serde::{Deserialize, Serialize};

/// A tensor in a graph: an index, cheap to copy, meaningful for the graph that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "call::Input", from = "call::Input")]
pub struct Value(u32);

/// Where the bytes of a value live.
#[derive(Debug, Clone)]
enum Storage {
    /// A slot, shared with other values over time.
    Slot,
    /// A slot of its own, written by the host before a play.
    Input,
    /// A tensor made outside: a weight, or state shared between plans.
    Tensor(Tensor),
    /// Nowhere: a recording that has it can be planned and counted, not bound.
    Declared,
    /// Bytes of another value, from an offset on.
    Slice { of: Value, offset: u64 },
}

#[derive(Debug, Clone)]
struct Info {
    name: String,
    shape: Shape,
    dtype: DType,
    storage: Storage,
    /// Readable after a play: its slot is not reused.
    output: bool,
}

/// One recorded kernel launch.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// The row of its table that was chosen.
    pub variant: &'static Variant,
    /// Defines on top of the variant's: which epilogue, which storage.
    pub defines: Vec<(&'static str, i64)>,
    /// The bytes of the kernel's `Params`, without `base`.
    pub params: Vec<u8>,
    /// Bound read-only, at bindings 1 and on.
    pub reads: Vec<Value>,
    /// Bound read-write, after the reads.
    pub writes: Vec<Value>,
    /// Workgroups.
    pub grid: [u32; 3],
    /// Floating-point operations: the budget of a submit and the floor of a bench.
    pub flops: u64,
    /// The scope path, filled in by [`Graph::dispatch`].
    pub scope: String,
}

impl Dispatch {
    /// The WGSL that a device compiles for this launch: the kernel's file, expanded with the variant's defines and its own.
    ///
    /// # Errors
    /// `Gpu` if the file is malformed, with the line.
    pub fn text(&self) -> Result<String> {
        gpu::text(self.kernel, self.variant, &self.defines)
    }
}

/// A recording.
#[derive(Debug, Default)]
pub struct Graph {
    target: Target,
    values: Vec<Info>,
    dispatches: Vec<Dispatch>,
    /// First dispatch, scope path and arguments of each call.
    calls: Vec<(usize, String, Call)>,
    uploads: Vec<upload::Upload>,
    scope: Vec<String>,
    taps: Vec<String>,
    tapped: Vec<(String, Value)>,
}

impl Graph {
    /// An empty recording for adapters like `target`.
    pub fn new(target: &Target) -> Self {
        Self { target: target.clone(), ..Self::default() }
    }

    /// What this recording may assume.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The shape of a value.
    pub fn shape(&self, v: Value) -> Shape {
        self.info(v).shape
    }

    /// How the elements of a value are stored.
    pub fn dtype(&self, v: Value) -> DType {
        self.info(v).dtype
    }

    /// Bytes of a value.
    pub fn bytes(&self, v: Value) -> u64 {
        let info = self.info(v);
        info.dtype.bytes(info.shape.count()) as u64
    }

    /// A value that the host writes before a play.
    pub fn input(&mut self, name: &str, shape: impl Into<Shape>, dtype: DType) -> Value {
        self.push(name, shape.into(), dtype, Storage::Input)
    }

    /// A tensor made outside, to read or to write.
    pub fn tensor(&mut self, tensor: &Tensor) -> Value {
        self.push("tensor", tensor.shape(), tensor.dtype(), Storage::Tensor(tensor.clone()))
    }

    /// A tensor made outside that is not there yet: for recordings that are planned, listed and measured call by call.
    pub fn declare(&mut self, shape: impl Into<Shape>, dtype: DType) -> Value {
        self.push("declared", shape.into(), dtype, Storage::Declared)
    }

    /// A value for a kernel to write.
    pub fn temp(&mut self, shape: impl Into<Shape>, dtype: DType) -> Value {
        let name = self.scope.join(".");
        self.push(&name, shape.into(), dtype, Storage::Slot)
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// `Shape` if the number of elements differs.
    pub fn reshape(&mut self, v: Value, shape: impl Into<Shape>) -> Result<Value> {
        let shape = shape.into();
        ensure!(shape.count() == self.shape(v).count(), Shape, "cannot see {} as {shape}", self.shape(v));
        Ok(self.push("", shape, self.dtype(v), Storage::Slice { of: v, offset: 0 }))
    }

    /// `len` entries of the first axis, from `start` on, without a copy.
    ///
    /// # Errors
    /// `Shape` if the range is outside, or its first byte is no multiple of the device's binding alignment.
    pub fn slice(&mut self, v: Value, start: usize, len: usize) -> Result<Value> {
        let (shape, dtype) = (self.shape(v), self.dtype(v));
        let rows = shape.first().copied().unwrap_or(1);
        ensure!(start + len <= rows, Shape, "rows {start}..{} of {shape}", start + len);
        let offset = (dtype.bytes(shape.count() / rows * start)) as u64;
        let alignment = self.target.limits.offset_alignment as u64;
        ensure!(
            offset.is_multiple_of(alignment),
            Shape,
            "row {start} of {shape} starts at byte {offset}, no multiple of {alignment}"
        );
        let mut axes = shape.to_vec();
        axes[0] = len;
        Ok(self.push("", Shape::new(&axes), dtype, Storage::Slice { of: v, offset }))
    }

    /// Makes a value readable after a play, under `name`.
    pub fn output(&mut self, v: Value, name: &str) {
        let info = &mut self.values[v.0 as usize];
        info.output = true;
        name.clone_into(&mut info.name);
    }

    /// Lets a value that a kernel writes (or a reshape of it) live in `tensor`, so that it outlasts this plan.
    ///
    /// # Errors
    /// `Shape` if the number of elements or their type differ, `Internal` if the value is not a temporary.
    pub fn store(&mut self, v: Value, tensor: &Tensor) -> Result<()> {
        let to = self.tensor(tensor);
        self.store_in(v, to)
    }

    /// The same for the tensor of a value, which may be a declared one.
    ///
    /// # Errors
    /// Those of [`store`](Self::store).
    pub fn store_in(&mut self, v: Value, to: Value) -> Result<()> {
        let (root, offset) = self.root(v);
        let to = self.info(to).clone();
        let info = &mut self.values[root.0 as usize];
        ensure!(
            info.shape.count() == to.shape.count() && offset == 0 && info.dtype == to.dtype,
            Shape,
            "cannot store {} as {}",
            info.shape,
            to.shape
        );
        ensure!(matches!(info.storage, Storage::Slot), Internal, "{}: only a temporary can be stored", info.name);
        info.storage = to.storage;
        Ok(())
    }

    /// Runs `f` with `name` appended to the scope path; its errors carry the path.
    pub fn scope<T>(&mut self, name: impl ToString, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.scope.push(name.to_string());
        let result = f(self);
        let name = self.scope.pop().unwrap_or_default();
        // The innermost scope reports the whole path; outer ones would only repeat its front.
        result.map_err(|e| if self.scope.is_empty() { e.context(name) } else { e.context(format!("in {name}")) })
    }

    /// Asks for the values that models [`mark`](Self::mark) with these names to be kept readable.
    pub fn tap(&mut self, names: impl IntoIterator<Item = impl Into<String>>) {
        self.taps.extend(names.into_iter().map(Into::into));
    }

    /// Offers a value as a stage of the model, `SCOPE` or `SCOPE.name`: kept if a tap asks for it (or for `*`).
    pub fn mark(&mut self, v: Value, name: &str) {
        let mut path = self.scope.clone();
        path.extend((!name.is_empty()).then(|| name.to_string()));
        let path = path.join(".");
        if self.taps.iter().any(|t| *t == path || t == "*") {
            self.values[v.0 as usize].output = true;
            self.tapped.push((path, v));
        }
    }

    /// Appends a launch; the scope is filled in here.
    ///
    /// # Errors
    /// `OutOfMemory` if a binding is larger than the device allows, `Internal` for an empty grid or a value that
    /// is both read and written (bind it once, as written).
    pub fn dispatch(&mut self, mut d: Dispatch) -> Result<()> {
        d.scope = self.scope.join(".");
        let limit = self.target.limits.binding;
        for &v in d.reads.iter().chain(&d.writes) {
            ensure!(
                self.bytes(v) <= limit,
                OutOfMemory,
                "{}: a tensor {} of {} bytes is larger than this device binds ({limit} bytes)",
                d.kernel.name,
                self.shape(v),
                self.bytes(v)
            );
        }
        ensure!(d.grid.iter().all(|&n| n > 0), Internal, "{}: empty grid {:?}", d.kernel.name, d.grid);
        ensure!(d.params.len() == d.kernel.params, Internal, "{}: parameters of the wrong size", d.kernel.name);
        for w in &d.writes {
            let clash = d.reads.iter().any(|r| self.root(*r).0 == self.root(*w).0);
            ensure!(!clash, Internal, "{}: one buffer both read and written", d.kernel.name);
        }
        self.dispatches.push(d);
        Ok(())
    }

    /// The launches recorded so far.
    pub fn dispatches(&self) -> &[Dispatch] {
        &self.dispatches
    }

    /// Floating-point operations of one play.
    pub fn flops(&self) -> u64 {
        self.dispatches.iter().map(|d| d.flops).sum()
    }

    fn info(&self, v: Value) -> &Info {
        &self.values[v.0 as usize]
    }

    fn push(&mut self, name: &str, shape: Shape, dtype: DType, storage: Storage) -> Value {
        self.values.push(Info { name: name.to_string(), shape, dtype, storage, output: false });
        Value(self.values.len() as u32 - 1)
    }

    /// The value whose storage `v` lives in, and the byte offset there.
    fn root(&self, v: Value) -> (Value, u64) {
        match self.info(v).storage {
            Storage::Slice { of, offset } => {
                let (root, base) = self.root(of);
                (root, base + offset)
            }
            _ => (v, 0),
        }
    }
}
