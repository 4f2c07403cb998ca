//! A Hub on this machine, for as long as a test runs: enough of its protocol, and its ways of failing.

use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

pub(super) const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server answers.
#[derive(Clone, Default)]
pub(super) struct Behaviour {
    /// The files of `org/model`.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Cuts the first so many answers with a body of the second file after half of it.
    pub(super) cuts: usize,
    /// Answers ranges with the whole file.
    pub(super) no_ranges: bool,
    /// Sends files by way of a redirect to another path, as to a storage service.
    pub(super) storage: bool,
    /// Status and error code for files, to whoever has no token "good".
    pub(super) gated: Option<(u16, &'static str)>,
    /// Status for everything.
    pub(super) down: Option<u16>,
    /// Announces this size for every file.
    pub(super) wrong_size: Option<usize>,
    /// Gives this ETag for every file.
    pub(super) etag: Option<&'static str>,
}

pub(super) struct Server {
    pub(super) endpoint: String,
    state: Arc<Mutex<State>>,
}

struct State {
    behaviour: Behaviour,
    log: Vec<String>,
}

impl Server {
    pub(super) fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { behaviour, log: Vec::new() }));
        let shared = state.clone();
        // Ends with the test process; each connection is short.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away in the middle is part of the tests.
                let _ = answer(stream, &shared);
            }
        });
        Self { endpoint, state }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.lock().unwrap().behaviour);
    }

    /// The requests since the last call, as `METHOD path [range]`.
    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut state = state.lock().unwrap();
    let range = headers.get("range").map(|r| format!(" {r}")).unwrap_or_default();
    state.log.push(format!("{method} {path}{range}"));
    let reply = reply(&mut state.behaviour, method, path, &headers);
    drop(state);
    let mut stream = stream;
    let head: String = reply.headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    write!(stream, "HTTP/1.1 {} X\r\nConnection: close\r\n{head}\r\n", reply.status)?;
    if method != "HEAD" {
        stream.write_all(&reply.body)?;
    }
    stream.flush()
}

#[derive(Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn error(status: u16, code: &str) -> Reply {
    Reply { status, headers: vec![("X-Error-Code", code.to_owned()), ("Content-Length", "0".into())], body: vec![] }
}

fn reply(hub: &mut Behaviour, method: &str, path: &str, headers: &HashMap<String, String>) -> Reply {
    if let Some(status) = hub.down {
        return error(status, "");
    }
    let token = headers.get("authorization").map(String::as_str);
    if let Some(rest) = path.strip_prefix("/api/models/") {
        return match rest.split_once("/revision/") {
            Some(("org/model", "main" | "v1" | "pr%2F1" | SHA)) => info(hub),
            Some(("org/old", _)) => Reply {
                status: 307,
                headers: vec![
                    ("Location", "/api/models/org/model/revision/main".into()),
                    ("Content-Length", "0".into()),
                ],
                body: vec![],
            },
            Some(("org/model", _)) => error(404, "RevisionNotFound"),
            _ if token.is_some() => error(404, "RepoNotFound"),
            _ => error(401, "RepoNotFound"),
        };
    }
    let (storage, name) =
        match (path.strip_prefix("/storage/"), path.strip_prefix(&format!("/org/model/resolve/{SHA}/"))) {
            (Some(name), _) => (true, name),
            (_, Some(name)) => (false, name),
            _ => return error(404, "RepoNotFound"),
        };
    if let Some((status, code)) = hub.gated.filter(|_| !storage && token != Some("Bearer good")) {
        return error(status, code);
    }
    // The token is the Hub's business only: in the tests storage is another host, `localhost`.
    assert!(!storage || token.is_none(), "the token went to the storage service");
    let Some(data) = hub.files.get(name).cloned() else { return error(404, "EntryNotFound") };
    // Large files lie in storage and are named by their SHA-256.
    let etag = match hub.etag {
        Some(etag) => etag.to_owned(),
        None if hub.storage => sha256(&data),
        None => git_hash(&data),
    };
    let size = hub.wrong_size.unwrap_or(data.len()).to_string();
    if hub.storage && !storage {
        let port = headers["host"].rsplit(':').next().unwrap_or("");
        return Reply {
            status: 302,
            headers: vec![
                ("Location", format!("http://localhost:{port}/storage/{name}")),
                ("X-Linked-Etag", format!("\"{etag}\"")),
                ("X-Linked-Size", size),
                ("X-Repo-Commit", SHA.into()),
                ("Content-Length", "0".into()),
                ("ETag", "\"of-the-redirect\"".into()),
            ],
            body: vec![],
        };
    }
    let start = headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let start = start.filter(|_| !hub.no_ranges);
    let mut body = data[start.unwrap_or(0)..].to_vec();
    let mut headers = vec![("ETag", format!("\"{etag}\"")), ("X-Repo-Commit", SHA.into())];
    if let Some(start) = start {
        headers.push(("Content-Range", format!("bytes {start}-{}/{}", data.len() - 1, data.len())));
    }
    headers.push(("Content-Length", if method == "HEAD" { size } else { body.len().to_string() }));
    if method == "GET" && hub.cuts > 0 && name != "config.json" {
        hub.cuts -= 1;
        body.truncate(body.len() / 2);
    }
    Reply { status: if start.is_some() { 206 } else { 200 }, headers, body }
}

fn info(hub: &Behaviour) -> Reply {
    let files: Vec<String> = hub.files.keys().map(|name| format!(r#"{{"rfilename":"{name}"}}"#)).collect();
    let body =
        format!(r#"{{"id":"org/model","sha":"{SHA}","gated":false,"siblings":[{}]}}"#, files.join(",")).into_bytes();
    Reply { status: 200, headers: vec![("Content-Length", body.len().to_string())], body }
}

fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

/// What names a small file: 40 digits, of another hash in truth.
pub(super) fn git_hash(data: &[u8]) -> String {
    sha256(data)[..40].to_owned()
}
