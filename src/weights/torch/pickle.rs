//! A machine for the part of pickle that state dicts need. It builds values; it calls nothing.
//!
//! Opcodes, globals and sizes are lists of what is allowed: everything else is an error that names it. Values live
//! in an arena and refer to each other by index, so a pickle that contains itself, or nests a million tuples, costs
//! neither a leak nor a deep recursion. Opcodes: CPython's `Lib/pickletools.py`.

use super::rebuild::{Global, Storage, TensorRef, rebuild, storage};
use crate::error::{Result, bail, ensure};
use crate::weights::store::printable;
use std::collections::HashMap;

/// Values that a pickle may make in all. SAM 2 large makes about 28,000.
const MAX_VALUES: usize = 1 << 18;
/// Arguments of a call or parts of a persistent id, which are copied to be looked at. The longest has seven.
const MAX_ARGUMENTS: usize = 16;
/// Bytes of pickle. The tensors are not in it: SAM 2 large has 0.1 MB.
const MAX_PICKLE: usize = 64 << 20;

/// A value. Small ones are held here, the others are [`Node`]s of the arena.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'p> {
    None,
    Bool,
    Int(i64),
    Float,
    Str(&'p str),
    Bytes,
    Global(Global),
    Node(u32),
    /// Opens a tuple, a list's items or a dict's items.
    Mark,
}

/// A value with parts.
#[derive(Debug)]
pub(super) enum Node<'p> {
    Tuple(Vec<Value<'p>>),
    List(Vec<Value<'p>>),
    Dict(Vec<(Value<'p>, Value<'p>)>),
    Storage(Storage<'p>),
    /// Boxed: it would make every node three times as large.
    Tensor(Box<TensorRef<'p>>),
}

/// What a pickle evaluates to.
pub(super) struct Pickle<'p> {
    pub(super) nodes: Vec<Node<'p>>,
    pub(super) root: Value<'p>,
}

impl<'p> Pickle<'p> {
    /// Runs the machine.
    ///
    /// # Errors
    /// `Weights`, with the byte where it stopped.
    pub(super) fn load(bytes: &'p [u8]) -> Result<Self> {
        ensure!(bytes.len() <= MAX_PICKLE, Weights, "a pickle of {} bytes is no state dict", bytes.len());
        let mut machine =
            Machine { bytes, at: 0, stack: Vec::new(), nodes: Vec::new(), memo: HashMap::new(), values: 0 };
        loop {
            let at = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok(Self { nodes: machine.nodes, root }),
                Err(e) => return Err(e.context(format!("the pickle, at byte {at}"))),
            }
        }
    }

    /// The pairs of a dict, if `value` is one.
    pub(super) fn dict(&self, value: Value<'p>) -> Option<&[(Value<'p>, Value<'p>)]> {
        match value {
            Value::Node(i) => match &self.nodes[i as usize] {
                Node::Dict(pairs) => Some(pairs),
                _ => None,
            },
            _ => None,
        }
    }

    /// The tensor, if `value` is one.
    pub(super) fn tensor(&self, value: Value<'p>) -> Option<&TensorRef<'p>> {
        match value {
            Value::Node(i) => match &self.nodes[i as usize] {
                Node::Tensor(tensor) => Some(tensor),
                _ => None,
            },
            _ => None,
        }
    }
}

struct Machine<'p> {
    bytes: &'p [u8],
    at: usize,
    stack: Vec<Value<'p>>,
    nodes: Vec<Node<'p>>,
    memo: HashMap<u32, Value<'p>>,
    /// Values made so far, wherever they are now: bounds the stack, the memo, the arena and all lists in it.
    values: usize,
}

impl<'p> Machine<'p> {
    /// Executes one opcode; gives the result at `STOP`.
    fn step(&mut self) -> Result<Option<Value<'p>>> {
        let [op] = self.array()?;
        match op {
            // PROTO, FRAME: protocol 5's out-of-band buffers are opcodes of their own, and not allowed.
            0x80 => drop(self.array::<1>()?),
            0x95 => drop(self.array::<8>()?),
            b'.' => return self.pop().map(Some),
            b'(' => self.push(Value::Mark)?,
            b'0' => drop(self.pop()?),
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Bool)?,
            b'K' => self.array().and_then(|[x]| self.push(Value::Int(x.into())))?,
            b'M' => self.array().and_then(|x| self.push(Value::Int(u16::from_le_bytes(x).into())))?,
            b'J' => self.array().and_then(|x| self.push(Value::Int(i32::from_le_bytes(x).into())))?,
            0x8a => self.long()?,
            b'G' => self.array::<8>().and_then(|_| self.push(Value::Float))?,
            0x8c => self.array().and_then(|[n]| self.text(n.into()))?,
            b'X' => self.array().and_then(|n| self.text(u32::from_le_bytes(n) as usize))?,
            b'U' | b'C' => self.array().and_then(|[n]| self.skip_bytes(n.into()))?,
            b'T' | b'B' => self.array().and_then(|n| self.skip_bytes(u32::from_le_bytes(n) as usize))?,
            b')' => self.node(Node::Tuple(Vec::new()))?,
            b']' => self.node(Node::List(Vec::new()))?,
            b'}' => self.node(Node::Dict(Vec::new()))?,
            0x85..=0x87 => self.short_tuple((op - 0x84).into())?,
            b't' => self.since_mark().and_then(|items| self.node(Node::Tuple(items)))?,
            b'a' => self.pop().and_then(|item| self.extend_list(vec![item]))?,
            b'e' => self.since_mark().and_then(|items| self.extend_list(items))?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => self.since_mark().and_then(|items| self.extend_dict(&items))?,
            b'q' => self.array().and_then(|[i]| self.put(i.into()))?,
            b'r' => self.array().and_then(|i| self.put(u32::from_le_bytes(i)))?,
            0x94 => self.put(self.memo.len() as u32)?,
            b'h' => self.array().and_then(|[i]| self.recall(i.into()))?,
            b'j' => self.array().and_then(|i| self.recall(u32::from_le_bytes(i)))?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Str(name), Value::Str(module)) => self.global(module, name)?,
                _ => bail!(Weights, "a global whose name is no string"),
            },
            b'Q' => {
                let id = self.pop_tuple()?;
                let storage = storage(&id)?;
                self.node(Node::Storage(storage))?;
            }
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            _ => bail!(Weights, "the opcode {op:#04x} is not one that a state dict needs"),
        }
        Ok(None)
    }

    fn push(&mut self, value: Value<'p>) -> Result<()> {
        self.values += 1;
        ensure!(self.values <= MAX_VALUES, Weights, "more than {MAX_VALUES} values: this is no state dict");
        self.stack.push(value);
        Ok(())
    }

    fn node(&mut self, node: Node<'p>) -> Result<()> {
        let index = self.nodes.len() as u32;
        self.nodes.push(node);
        self.push(Value::Node(index))
    }

    fn pop(&mut self) -> Result<Value<'p>> {
        match self.stack.pop() {
            Some(Value::Mark) | None => bail!(Weights, "it takes a value from an empty stack"),
            Some(value) => Ok(value),
        }
    }

    fn pop_tuple(&mut self) -> Result<Vec<Value<'p>>> {
        match self.pop()? {
            Value::Node(i) => match &self.nodes[i as usize] {
                Node::Tuple(items) if items.len() <= MAX_ARGUMENTS => Ok(items.clone()),
                Node::Tuple(items) => bail!(Weights, "a call with {} arguments", items.len()),
                _ => bail!(Weights, "expected a tuple"),
            },
            _ => bail!(Weights, "expected a tuple"),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'p>>> {
        match self.stack.iter().rposition(|v| *v == Value::Mark) {
            Some(mark) => {
                let items = self.stack.split_off(mark + 1);
                self.stack.pop();
                Ok(items)
            }
            None => bail!(Weights, "it closes what it has not opened"),
        }
    }

    fn short_tuple(&mut self, len: usize) -> Result<()> {
        let mut items = (0..len).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        self.node(Node::Tuple(items))
    }

    /// The node below what was just taken from the stack: the list or dict to extend.
    fn top(&mut self) -> Result<&mut Node<'p>> {
        match self.stack.last() {
            Some(Value::Node(i)) => Ok(&mut self.nodes[*i as usize]),
            _ => bail!(Weights, "it extends what is neither a list nor a dict"),
        }
    }

    fn extend_list(&mut self, items: Vec<Value<'p>>) -> Result<()> {
        match self.top()? {
            Node::List(list) => list.extend(items),
            _ => bail!(Weights, "it appends to what is not a list"),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Value<'p>]) -> Result<()> {
        ensure!(items.len().is_multiple_of(2), Weights, "a dict item without a value");
        match self.top()? {
            Node::Dict(dict) => dict.extend(items.as_chunks().0.iter().map(|[k, v]| (*k, *v))),
            _ => bail!(Weights, "it sets items of what is not a dict"),
        }
        Ok(())
    }

    fn put(&mut self, index: u32) -> Result<()> {
        let Some(&value) = self.stack.last() else { bail!(Weights, "it remembers a value of an empty stack") };
        // The marks' entries count too, so that the memo is bounded like everything else.
        self.values += 1;
        ensure!(self.values <= MAX_VALUES, Weights, "more than {MAX_VALUES} values: this is no state dict");
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<()> {
        match self.memo.get(&index) {
            Some(&value) if value != Value::Mark => self.push(value),
            _ => bail!(Weights, "it recalls value {index}, which it never remembered"),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        match Global::find(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => bail!(
                Weights,
                "it wants to call {}, which is none of the functions that rebuild a tensor. impasto runs no code out \
                 of a file; save the plain state dict instead: torch.save({{\"model\": model.state_dict()}}, path)",
                printable(&format!("{module}.{name}"))
            ),
        }
    }

    /// `callable(*arguments)`, for the three callables there are.
    fn reduce(&mut self) -> Result<()> {
        let arguments = self.pop_tuple()?;
        match self.pop()? {
            Value::Global(Global::OrderedDict) => {
                ensure!(arguments.is_empty(), Weights, "an OrderedDict made with arguments");
                self.node(Node::Dict(Vec::new()))
            }
            Value::Global(Global::Tensor) => {
                let tensor = rebuild(&arguments, &self.nodes)?;
                self.node(Node::Tensor(Box::new(tensor)))
            }
            Value::Global(Global::Parameter) => match arguments.first() {
                Some(&Value::Node(i)) if matches!(self.nodes[i as usize], Node::Tensor(_)) => self.push(Value::Node(i)),
                _ => bail!(Weights, "a parameter that is not made of a tensor"),
            },
            _ => bail!(Weights, "it calls what is no function"),
        }
    }

    /// Attributes for an object. A state dict carries `_metadata` (module versions), which nothing here needs.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.top()? {
            Node::Dict(_) => Ok(()),
            _ => bail!(Weights, "attributes for what is no OrderedDict"),
        }
    }

    /// A little-endian two's complement integer of up to eight bytes.
    fn long(&mut self) -> Result<()> {
        let [len] = self.array()?;
        let bytes = self.take(len.into())?;
        ensure!(bytes.len() <= 8, Weights, "an integer of {} bytes", bytes.len());
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, len: usize) -> Result<()> {
        match std::str::from_utf8(self.take(len)?) {
            Ok(text) => self.push(Value::Str(text)),
            Err(_) => bail!(Weights, "a string that is not UTF-8"),
        }
    }

    fn skip_bytes(&mut self, len: usize) -> Result<()> {
        self.take(len)?;
        self.push(Value::Bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'p [u8]> {
        match self.bytes[self.at..].get(..len) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => bail!(Weights, "it ends too early, or a length of {len} lies"),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(array)
    }

    /// A line of a `GLOBAL` opcode. Names are short: the search for the newline is bounded.
    fn line(&mut self) -> Result<&'p str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(512).position(|b| *b == b'\n');
        match end.and_then(|end| Some((end, std::str::from_utf8(&rest[..end]).ok()?))) {
            Some((end, line)) => {
                self.at += end + 1;
                Ok(line)
            }
            None => bail!(Weights, "a global's name that does not end"),
        }
    }
}
