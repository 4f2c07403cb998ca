//! Calls: what a kernel function was asked for, as data. A call can be listed, counted, stored in a file and recorded
//! again on another graph, with another variant: the shapes of `impasto bench` are the calls of a model's recording.

use super::{Graph, Value};
use crate::{
    error::{Error, ErrorKind, Result},
    kernel::Kernel,
    shape::{DType, Shape},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value as Json;
use std::ops::Range;

/// A call of a kernel function, free of the graph that it was recorded on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Kernel stem.
    pub kernel: String,
    /// The tensors that it reads, in the order of their first mention.
    pub inputs: Vec<CallInput>,
    /// The function's arguments; `{"input": i}` stands for a tensor.
    pub args: Json,
}

/// A tensor of a [`Call`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallInput {
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its storage.
    pub dtype: DType,
}

/// A call in a graph: the dispatches that it recorded.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The call.
    pub call: Call,
    /// Indices into [`Graph::dispatches`].
    pub dispatches: Range<usize>,
    /// The scope path.
    pub scope: String,
}

/// How a [`Value`] looks among the arguments.
#[derive(Serialize, Deserialize)]
pub(super) struct Input {
    input: u32,
}

impl From<Value> for Input {
    fn from(v: Value) -> Self {
        Self { input: v.0 }
    }
}

impl From<Input> for Value {
    fn from(v: Input) -> Self {
        Self(v.input)
    }
}

impl Graph {
    /// Says that what is dispatched from here to the next call is `kernel`'s function called with `args`.
    ///
    /// # Errors
    /// `Internal` if the arguments cannot be written as JSON.
    pub(crate) fn call(&mut self, kernel: &'static Kernel, args: &impl Serialize) -> Result<()> {
        let mut args = serde_json::to_value(args)
            .map_err(|e| Error::with_source(ErrorKind::Internal, format!("the arguments of {}", kernel.name), e))?;
        let mut values = Vec::new();
        number_inputs(&mut args, &mut values);
        let operand = |v: &u32| {
            let v = Value(*v);
            CallInput { shape: self.shape(v).to_vec(), dtype: self.dtype(v) }
        };
        let call = Call { kernel: kernel.name.into(), inputs: values.iter().map(operand).collect(), args };
        self.target.tuned = self.target.tuning.variant(kernel.name, || call.class());
        let start = self.dispatches.len();
        self.calls.push((start, self.scope.join("."), call));
        Ok(())
    }

    /// The calls recorded so far, each with its dispatches.
    pub fn calls(&self) -> impl Iterator<Item = Recorded> + '_ {
        let ends = self.calls.iter().skip(1).map(|c| c.0).chain([self.dispatches.len()]);
        self.calls.iter().zip(ends).map(|((start, scope, call), end)| Recorded {
            call: call.clone(),
            dispatches: *start..end,
            scope: scope.clone(),
        })
    }

    /// Bytes that some dispatches cannot help to move: each value that they read or write, once.
    pub fn traffic(&self, dispatches: Range<usize>) -> u64 {
        let mut seen = std::collections::BTreeSet::new();
        let touched = self.dispatches[dispatches].iter().flat_map(|d| d.reads.iter().chain(&d.writes));
        touched.filter(|v| seen.insert(v.0)).map(|&v| self.bytes(v)).sum()
    }
}

/// Replaces the numbers of values by their places in `values`, which it fills.
fn number_inputs(json: &mut Json, values: &mut Vec<u32>) {
    match json {
        Json::Object(fields) => match fields.get_mut("input") {
            Some(Json::Number(n)) => {
                let value = n.as_u64().unwrap_or_default() as u32;
                let place = values.iter().position(|v| *v == value).unwrap_or_else(|| {
                    values.push(value);
                    values.len() - 1
                });
                *n = place.into();
            }
            _ => fields.values_mut().for_each(|v| number_inputs(v, values)),
        },
        Json::Array(items) => items.iter_mut().for_each(|v| number_inputs(v, values)),
        _ => {}
    }
}

impl Call {
    /// The inputs as inputs of an empty graph: their numbers there are those in the arguments.
    pub fn inputs(&self, g: &mut Graph) -> Vec<Value> {
        let inputs = self.inputs.iter().enumerate();
        inputs.map(|(i, x)| g.input(&format!("input {i}"), Shape::new(&x.shape), x.dtype)).collect()
    }

    /// The arguments as the kernel's function takes them.
    ///
    /// # Errors
    /// `Argument` if they are of another form.
    pub fn args<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.args)
            .map_err(|e| Error::with_source(ErrorKind::Argument, format!("a call of {}", self.kernel), e))
    }

    /// Calls of one class are tuned as one: sizes count up to the next power of two.
    pub fn class(&self) -> String {
        let mut text = String::new();
        for x in &self.inputs {
            x.shape.iter().for_each(|n| text += &format!("{}x", n.next_power_of_two()));
            text += &format!("{:?} ", x.dtype).to_lowercase();
        }
        let mut words = Vec::new();
        collect(&self.args, "", &mut |key, value| match value {
            Json::Number(n) => {
                if let Some(n) = n.as_u64().filter(|n| *n > 0) {
                    words.push(format!("{key}{}", n.next_power_of_two()));
                }
            }
            Json::String(s) => words.push(s.to_lowercase()),
            Json::Bool(true) => words.push(key.into()),
            _ => {}
        });
        text + &words.join(" ")
    }

    /// The call in a few words: sizes, storage, what is fused.
    pub fn label(&self) -> String {
        let mut words = Vec::new();
        // What the shapes say already, and what is as usual, is left out.
        let axis = |n: u64| n >= 16 && self.inputs.iter().any(|x| x.shape.contains(&(n as usize)));
        let rows = |n: u64| self.inputs.iter().any(|x| Shape::new(&x.shape).rows_cols().0 == n as usize);
        // A product of only some tokens of a sequence says of how many.
        let follows = |key: &str, n: Option<u64>| match key {
            "m" => n.is_none_or(|n| n < 16 || axis(n) || rows(n)),
            _ => ["n", "k", "rows", "shape"].contains(&key),
        };
        collect(&self.args, "", &mut |key, value| match value {
            _ if follows(key, value.as_u64()) => {}
            Json::Number(n) if n.as_u64().is_none_or(|n| n == 0 || axis(n) || (n == 1 && key == "batch")) => {}
            Json::Number(n) => words.push(format!("{key}{n}")),
            Json::String(s) if s != "None" && s != "Full" => words.push(s.to_lowercase()),
            Json::Bool(true) => words.push(key.into()),
            _ => {}
        });
        let shapes = self.inputs.iter().map(|x| {
            let sizes = x.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
            if x.dtype == DType::F32 { sizes } else { format!("{sizes}:{:?}", x.dtype).to_lowercase() }
        });
        let shapes = shapes.collect::<Vec<_>>().join(" ");
        if words.is_empty() { shapes } else { format!("{shapes} {}", words.join(" ")) }
    }
}

/// Calls `f` with each leaf of the arguments and its key. Strides and tensors are no news beside the inputs' shapes.
fn collect(json: &Json, key: &str, f: &mut impl FnMut(&str, &Json)) {
    match json {
        Json::Object(fields) if fields.contains_key("input") => {}
        Json::Object(fields) => {
            let strides = fields.contains_key("row") && fields.contains_key("offset");
            fields.iter().filter(|_| !strides).for_each(|(key, v)| collect(v, key, f));
        }
        Json::Array(items) => items.iter().for_each(|v| collect(v, key, f)),
        leaf => f(key, leaf),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Kernel = Kernel { name: "kernel", source: "", params: 0, variants: &[] };

    #[test]
    fn a_call_is_free_of_its_graph() {
        let mut g = Graph::default();
        let [_, a, b] = [7, 40, 8].map(|n| g.input("", [n], DType::F32));
        g.call(&KERNEL, &(b, a, "Mul", Some(b))).unwrap();
        let recorded: Vec<_> = g.calls().collect();
        let call = &recorded[0].call;
        assert_eq!(call.args.to_string(), r#"[{"input":0},{"input":1},"Mul",{"input":0}]"#);
        assert_eq!(call.inputs.iter().map(|x| x.shape[0]).collect::<Vec<_>>(), [8, 40]);
        assert_eq!(call.label(), "8 40 mul");
        assert_eq!(call.class(), "8xf32 64xf32 mul");
        let (first, ..): (Value, Value, String, Value) = call.args().unwrap();
        assert_eq!(first, Value(0));
        assert!(call.args::<(Value, Value)>().is_err());
        let text = serde_json::to_string(call).unwrap();
        assert_eq!(&serde_json::from_str::<Call>(&text).unwrap(), call);
    }
}
