//! What a state dict may name: storages, and the functions that make tensors of them.

use super::pickle::{Node, Value};
use crate::error::{Result, bail, ensure};
use crate::weights::{HostDType, dtype::byte_count, store::MAX_RANK, tensor::dims};

/// The globals that a state dict may name. Nothing else is ever resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`
    Tensor,
    /// `torch._utils._rebuild_parameter`
    Parameter,
    /// A storage class, as `torch.FloatStorage`.
    Storage(HostDType),
}

impl Global {
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        use HostDType::*;
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::Tensor,
            ("torch._utils", "_rebuild_parameter") => Self::Parameter,
            ("torch", "FloatStorage") => Self::Storage(F32),
            ("torch", "HalfStorage") => Self::Storage(F16),
            ("torch", "BFloat16Storage") => Self::Storage(BF16),
            ("torch", "DoubleStorage") => Self::Storage(F64),
            ("torch", "CharStorage") => Self::Storage(I8),
            ("torch", "ByteStorage") => Self::Storage(U8),
            ("torch", "ShortStorage") => Self::Storage(I16),
            ("torch", "IntStorage") => Self::Storage(I32),
            ("torch", "LongStorage") => Self::Storage(I64),
            ("torch", "BoolStorage") => Self::Storage(Bool),
            _ => return None,
        })
    }
}

/// The elements behind one or several tensors: an entry of the archive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Storage<'p> {
    pub(super) dtype: HostDType,
    /// The entry's name, below `data/`.
    pub(super) key: &'p str,
    /// The number of elements.
    pub(super) count: usize,
}

/// A view of a storage. All its elements have been checked to lie inside.
#[derive(Debug)]
pub(super) struct TensorRef<'p> {
    pub(super) storage: Storage<'p>,
    /// The first element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// As in `store::Entry`: only where the elements are not row-major.
    pub(super) strides: Option<Vec<usize>>,
}

/// A persistent id: `("storage", class, key, location, element count)`.
pub(super) fn storage<'p>(id: &[Value<'p>]) -> Result<Storage<'p>> {
    match id {
        [
            Value::Str("storage"),
            Value::Global(Global::Storage(dtype)),
            Value::Str(key),
            Value::Str(_),
            Value::Int(n),
        ] => {
            let Ok(count) = usize::try_from(*n) else { bail!(Weights, "a storage of {n} elements") };
            Ok(Storage { dtype: *dtype, key, count })
        }
        _ => bail!(Weights, "a persistent id that is no storage"),
    }
}

/// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`.
pub(super) fn rebuild<'p>(arguments: &[Value<'p>], nodes: &[Node<'p>]) -> Result<TensorRef<'p>> {
    let node = |value: &Value<'p>| match value {
        Value::Node(i) => nodes.get(*i as usize),
        _ => None,
    };
    let [storage, Value::Int(offset), size, stride, ..] = arguments else {
        bail!(Weights, "a tensor that is not made of storage, offset, size and stride")
    };
    let (Some(Node::Storage(storage)), Some(Node::Tuple(size)), Some(Node::Tuple(stride))) =
        (node(storage), node(size), node(stride))
    else {
        bail!(Weights, "a tensor that is not made of storage, offset, size and stride")
    };
    let (Some(shape), Some(strides), Ok(offset)) = (numbers(size), numbers(stride), usize::try_from(*offset)) else {
        bail!(Weights, "a tensor whose size, stride or offset is negative or no number")
    };
    ensure!(shape.len() == strides.len(), Weights, "a tensor of {} sizes and {} strides", shape.len(), strides.len());
    ensure!(shape.len() <= MAX_RANK, Weights, "a tensor of {} axes; {MAX_RANK} are the most", shape.len());

    let shown = || dims(&shape);
    let Some(bytes) = byte_count(&shape, storage.dtype) else { bail!(Weights, "the size of {} overflows", shown()) };
    let count = bytes / storage.dtype.size();
    // The position of the last element bounds all others: strides are not negative.
    let reach = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |at, (n, stride)| n.saturating_sub(1).checked_mul(*stride).and_then(|x| at.checked_add(x)));
    let inside = if count == 0 { offset <= storage.count } else { reach.is_some_and(|last| last < storage.count) };
    ensure!(
        inside,
        Weights,
        "a tensor {} with strides {strides:?} from element {offset} on leaves its storage of {}",
        shown(),
        storage.count
    );
    // A stride of 0 repeats elements: a few bytes could stand for terabytes.
    ensure!(
        count <= storage.count,
        Weights,
        "an expanded tensor: {} are more elements than the {} of its storage",
        shown(),
        storage.count
    );
    let strides = (!row_major(&shape, &strides)).then_some(strides);
    Ok(TensorRef { storage: *storage, offset, shape, strides })
}

fn numbers(values: &[Value<'_>]) -> Option<Vec<usize>> {
    if values.len() > 64 {
        return None;
    }
    values.iter().map(|v| if let Value::Int(n) = v { usize::try_from(*n).ok() } else { None }).collect()
}

/// Whether the elements lie in row-major order without gaps. The stride of an axis of size 1 means nothing.
fn row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.contains(&0)
        || shape.iter().zip(strides).rev().all(|(&n, &stride)| {
            let fits = n == 1 || stride == expected;
            expected = expected.saturating_mul(n);
            fits
        })
}
