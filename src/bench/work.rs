//! What is measured: calls, with how often a model makes them.

use crate::{
    error::{Error, ErrorKind, Result, bail},
    gpu::Gpu,
    graph::{Call, Graph, Value},
    kernel::{Target, Tuning, Variant},
    kernels::{ALL, Entry, Input, Random, attention},
    shape::{DType, Shape},
};
use serde::{Deserialize, Serialize};

/// A call and how often it is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The call.
    pub call: Call,
    /// Times that the model makes it.
    pub count: usize,
    /// Where the model makes it first.
    pub scope: String,
}

/// The distinct calls of a recording, in its order.
pub fn works(graph: &Graph) -> Vec<Work> {
    let mut works: Vec<Work> = Vec::new();
    for r in graph.calls() {
        match works.iter_mut().find(|w| w.call == r.call) {
            Some(known) => known.count += 1,
            None => works.push(Work { call: r.call, count: 1, scope: r.scope }),
        }
    }
    works
}

/// A call recorded for one device and variant.
pub(super) struct Recording {
    pub(super) graph: Graph,
    pub(super) inputs: Vec<Value>,
    pub(super) output: Value,
    /// Of the call's own kernel.
    pub(super) variant: &'static Variant,
}

impl Work {
    /// What a filter is matched against: kernel and call in words.
    pub fn name(&self) -> String {
        format!("{} {}", self.call.kernel, self.call.label())
    }

    /// How the weights are stored, or else the inputs.
    pub fn dtype(&self) -> DType {
        self.call.inputs.iter().map(|x| x.dtype).find(|d| *d != DType::F32).unwrap_or(DType::F32)
    }

    /// The kernel's entry.
    ///
    /// # Errors
    /// `Argument` if there is no such kernel, or it is only called by others.
    pub(super) fn entry(&self) -> Result<&'static Entry> {
        let entry = ALL.iter().find(|e| e.kernel.name == self.call.kernel && e.replay.is_some());
        entry.ok_or_else(|| Error::new(ErrorKind::Argument, format!("no kernel {} to call", self.call.kernel)))
    }

    /// Records the call: by the rules alone, or with a variant forced.
    ///
    /// # Errors
    /// `Gpu` if the variant does not suit shape or device; else what the kernel's function reports.
    pub(super) fn record(&self, gpu: &Gpu, variant: Option<&str>) -> Result<Recording> {
        let entry = self.entry()?;
        let forced = variant.map(|v| (self.call.kernel.clone(), v.to_string()));
        let target = Target { forced: forced.into_iter().collect(), tuning: Tuning::default(), ..gpu.target().clone() };
        let mut graph = Graph::new(&target);
        let inputs = self.call.inputs(&mut graph);
        let Some(replay) = entry.replay else { unreachable!("entry() returns those that replay") };
        let output = replay(&mut graph, &self.call)?;
        let output = attention::combined(&mut graph, &self.call, output)?;
        // A call may prepare its operands by other kernels, and merge its parts by others.
        let own = graph.dispatches().iter().find(|d| d.kernel.name == self.call.kernel);
        let Some(variant) = own.map(|d| d.variant) else { bail!(Internal, "{} recorded nothing", self.name()) };
        Ok(Recording { graph, inputs, output, variant })
    }

    /// Values for the inputs: random, never zero as a rule, because zeros cost a GPU less power and more clock.
    pub(super) fn data(&self) -> Vec<Input> {
        let mut random = Random::new(0xBE7C);
        let values = |x: &crate::graph::CallInput| {
            let shape = Shape::new(&x.shape);
            Input::stored(x.dtype, shape, random.values(shape.count()))
        };
        self.call.inputs.iter().map(values).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::elementwise::{Binary, elementwise};

    #[test]
    fn equal_calls_are_counted() {
        let mut g = Graph::default();
        let [a, b] = [64, 8].map(|n| g.input("", [n], DType::F32));
        for _ in 0..3 {
            let y = elementwise(&mut g, a, b, Binary::Add).unwrap();
            elementwise(&mut g, y, y, Binary::Mul).unwrap();
        }
        let found: Vec<_> = works(&g).iter().map(|w| (w.name(), w.count)).collect();
        assert_eq!(found, [("elementwise 64 8 add".into(), 3), ("elementwise 64 mul".into(), 3)]);
    }

    #[test]
    fn a_call_of_nothing_is_refused() {
        let call = Call { kernel: "nothing".into(), inputs: Vec::new(), args: serde_json::Value::Null };
        let work = Work { call, count: 1, scope: String::new() };
        assert_eq!(work.entry().unwrap_err().kind(), ErrorKind::Argument);
    }
}
