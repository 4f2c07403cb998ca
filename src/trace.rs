//! A trace of host and device, in the format that Perfetto and chrome://tracing open (the Trace Event Format's JSON).
//!
//! Host slices are [`span`]s, device slices come from timestamps around each dispatch. The two clocks share no origin: the
//! first dispatch of a submit is put where it was submitted.

use serde_json::{Map, Value, json};
use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// A row of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// This thread of the program.
    Host,
    /// The GPU.
    Device,
}

/// A slice of the host's track, from [`span`] to its end.
#[must_use = "a span ends where it is dropped"]
#[derive(Debug)]
pub struct Span(Option<(&'static Trace, f64, String)>);

/// Begins a slice if a trace is being collected.
pub fn span(name: impl FnOnce() -> String) -> Span {
    Span(active().map(|trace| (trace, trace.now(), name())))
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some((trace, start, name)) = self.0.take() {
            trace.slice(Track::Host, &name, start, trace.now() - start, Map::new());
        }
    }
}

/// Threads are numbered in the order of their first slice.
fn thread() -> u64 {
    static THREADS: AtomicU64 = AtomicU64::new(1);
    thread_local!(static NUMBER: u64 = THREADS.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|n| *n)
}

/// What happened so far.
#[derive(Debug)]
pub struct Trace {
    origin: Instant,
    events: Mutex<Vec<Value>>,
}

static TRACE: OnceLock<Trace> = OnceLock::new();

/// Starts collecting, for the rest of the process. Plays then time every dispatch, and wait for it: they are slower.
pub fn start() -> &'static Trace {
    TRACE.get_or_init(|| Trace { origin: Instant::now(), events: Mutex::default() })
}

/// The trace, if one was started.
pub fn active() -> Option<&'static Trace> {
    TRACE.get()
}

impl Trace {
    /// Microseconds since the start.
    pub fn now(&self) -> f64 {
        self.origin.elapsed().as_secs_f64() * 1e6
    }

    /// A slice from `start` on, `duration` long, in microseconds.
    pub fn slice(&self, track: Track, name: &str, start: f64, duration: f64, args: Map<String, Value>) {
        let (process, thread) = match track {
            Track::Host => (1, thread()),
            Track::Device => (2, 1),
        };
        let event = json!({
            "ph": "X", "name": name, "pid": process, "tid": thread, "ts": start, "dur": duration, "args": args,
        });
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// The whole trace as JSON.
    pub fn json(&self) -> Value {
        let process = |pid: u32, name: &str| json!({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}});
        let mut events = vec![process(1, "host"), process(2, "GPU")];
        events.extend(self.events.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        json!({"displayTimeUnit": "ms", "traceEvents": events})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_become_complete_events() {
        let trace = Trace { origin: Instant::now(), events: Mutex::default() };
        trace.slice(Track::Device, "matmul", 5.0, 2.5, Map::from_iter([("flops".to_string(), json!(8))]));
        trace.slice(Track::Host, "bind", 1.0, 2.0, Map::new());
        let all = trace.json();
        let events = all["traceEvents"].as_array().unwrap();
        assert_eq!(events.iter().filter(|e| e["ph"] == "M").count(), 2);
        let device = events.iter().find(|e| e["name"] == "matmul").unwrap();
        assert_eq!((&device["ts"], &device["dur"], &device["args"]["flops"]), (&json!(5.0), &json!(2.5), &json!(8)));
        assert_ne!(device["pid"], events.iter().find(|e| e["name"] == "bind").unwrap()["pid"]);
    }
}
