//! Names, the environment, and downloads from a Hub on this machine.

mod server;

use super::*;
use crate::ErrorKind;
use server::{Behaviour, SHA, Server};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::Mutex,
};

fn weights() -> Vec<u8> {
    (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect()
}

fn model() -> Behaviour {
    let files = [
        (".gitattributes", b"x".to_vec()),
        ("config.json", b"{\"model_type\":\"sam2\"}".to_vec()),
        ("model.safetensors", weights()),
        ("sam2.pt", b"never asked for".to_vec()),
    ];
    Behaviour { files: files.map(|(name, data)| (name.to_owned(), data)).into(), ..Behaviour::default() }
}

fn with_files(files: &[(&str, &str)]) -> Behaviour {
    let files: BTreeMap<_, _> = files.iter().map(|(n, d)| ((*n).to_owned(), d.as_bytes().to_vec())).collect();
    Behaviour { files, ..Behaviour::default() }
}

/// A server, a cache of its own, and options for both.
fn hub(behaviour: Behaviour) -> (Server, tempfile::TempDir, Options) {
    let (server, cache) = (Server::start(behaviour), tempfile::tempdir().unwrap());
    let options = Options {
        endpoint: server.endpoint.clone(),
        token: None,
        cache: cache.path().join("hub"),
        offline: false,
        refresh: false,
        progress: None,
    };
    (server, cache, options)
}

#[track_caller]
fn fails(name: &str, options: &Options, kind: ErrorKind, expected: &[&str]) {
    let error = resolve(name, options).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    for expected in expected {
        assert!(error.to_string().contains(expected), "expected {expected:?} in {error}");
    }
}

#[test]
fn names_are_understood() {
    let named = |name: &str| match parse(name).unwrap() {
        Named::Hub { id, revision } => format!("{id}@{revision}"),
        Named::Path(path) => path.display().to_string(),
    };
    assert_eq!(named("tiny"), "facebook/sam2.1-hiera-tiny@main");
    assert_eq!(named("base-plus"), "facebook/sam2.1-hiera-base-plus@main");
    assert_eq!(named("sam2.1-large"), "facebook/sam2.1-hiera-large@main");
    assert_eq!(named("sam2-small@v1"), "facebook/sam2-hiera-small@v1");
    assert_eq!(named("org/name"), "org/name@main");
    assert_eq!(named("org/name@refs/pr/1"), "org/name@refs/pr/1");
    let here = env!("CARGO_MANIFEST_DIR");
    assert_eq!(named(here), here);
    for (name, kind) in [
        ("", ErrorKind::Argument),
        ("mini", ErrorKind::Argument),
        ("huge", ErrorKind::NotFound),
        ("model.safetensors", ErrorKind::NotFound),
        ("weights/model.pt", ErrorKind::NotFound),
        ("./org/name", ErrorKind::NotFound),
        ("a/b/c", ErrorKind::NotFound),
        ("org/../name", ErrorKind::NotFound),
        ("org/..", ErrorKind::NotFound),
        ("org/na me", ErrorKind::NotFound),
        ("org/name@", ErrorKind::Argument),
        ("org/name@../../x", ErrorKind::Argument),
        ("org/name@a b", ErrorKind::Argument),
    ] {
        assert_eq!(parse(name).unwrap_err().kind(), kind, "{name:?}");
    }
    // No short name means two models, and none looks like an id.
    let mut short: Vec<_> = MODELS.iter().flat_map(|m| m.short).collect();
    let count = short.len();
    short.sort();
    short.dedup();
    assert!(short.len() == count && short.iter().all(|s| !s.contains('/')));
}

#[test]
fn the_environment_is_followed() {
    let home = tempfile::tempdir().unwrap();
    let path = |p: &str| home.path().join(p).display().to_string();
    fs::create_dir(home.path().join("hf")).unwrap();
    fs::write(home.path().join("hf/token"), "hf_file\n").unwrap();
    let options = |pairs: &[(&str, String)]| {
        let map: HashMap<_, _> = pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        Options::from_lookup(move |name| map.get(name).cloned())
    };
    let o = options(&[("HOME", path("u"))]);
    assert_eq!(o.cache, home.path().join("u/.cache/huggingface/hub"));
    assert_eq!((o.endpoint.as_str(), o.token, o.offline), ("https://huggingface.co", None, false));
    assert_eq!(
        options(&[("HOME", path("u")), ("XDG_CACHE_HOME", path("x"))]).cache,
        home.path().join("x/huggingface/hub")
    );
    let o =
        options(&[("HF_HOME", path("hf")), ("HF_ENDPOINT", "http://mirror".into()), ("HF_HUB_OFFLINE", "YES".into())]);
    assert_eq!(o.cache, home.path().join("hf/hub"));
    assert_eq!((o.endpoint.as_str(), o.token.as_deref(), o.offline), ("http://mirror", Some("hf_file"), true));
    assert_eq!(options(&[("HF_HOME", path("hf")), ("HF_TOKEN", " t ".into())]).token.as_deref(), Some("t"));
    assert_eq!(options(&[("HF_HOME", path("hf")), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1".into())]).token, None);
    assert_eq!(options(&[("HF_TOKEN_PATH", path("hf/token"))]).token.as_deref(), Some("hf_file"));
    assert_eq!(options(&[("HF_HOME", path("hf")), ("HF_HUB_CACHE", path("c"))]).cache, home.path().join("c"));
    assert!(!options(&[("HF_HUB_OFFLINE", "0".into())]).offline);
    // A token does not end up in a log.
    let debug = format!("{:?}", options(&[("HF_TOKEN", "hf_secret".into())]));
    assert!(debug.contains("set") && !debug.contains("hf_secret"), "{debug}");
}

#[test]
fn a_model_is_fetched_once_into_the_hubs_layout() {
    let (server, _guard, mut options) = hub(model());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    options.progress =
        Some(Arc::new(move |p: Progress<'_>| sink.lock().unwrap().push((p.file.to_owned(), p.done, p.total))));
    let folder = resolve("org/model", &options).unwrap();
    let home = options.cache.join("models--org--model");
    assert_eq!(folder, home.join("snapshots").join(SHA));
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert_eq!(fs::read_to_string(home.join("refs/main")).unwrap(), SHA);
    // Only what is needed, and as links to the blobs.
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    assert_eq!(fs::read_dir(home.join("blobs")).unwrap().count(), 2);
    #[cfg(unix)]
    assert!(fs::read_link(folder.join("config.json")).unwrap().starts_with("../../blobs"));
    let seen = seen.lock().unwrap();
    let of_weights: Vec<_> = seen.iter().filter(|(file, ..)| file == "model.safetensors").collect();
    assert_eq!((of_weights[0].1, of_weights[0].2), (0, 300_000));
    assert_eq!(of_weights.last().unwrap().1, 300_000);
    assert!(of_weights.is_sorted_by_key(|(_, done, _)| *done));

    // The second time nothing is asked, online or not.
    server.log();
    assert_eq!(resolve("org/model", &options).unwrap(), folder);
    server.change(|hub| hub.down = Some(500));
    assert_eq!(path("org/model", &options).unwrap(), folder);
    assert_eq!(path(&format!("org/model@{SHA}"), &options).unwrap(), folder);
    assert_eq!(server.log(), [""; 0]);
}

#[test]
fn refresh_asks_but_fetches_nothing_again() {
    let (server, _guard, options) = hub(model());
    let folder = resolve("org/model", &options).unwrap();
    server.log();
    assert_eq!(resolve("org/model", &Options { refresh: true, ..options.clone() }).unwrap(), folder);
    assert_eq!(server.log(), ["GET /api/models/org/model/revision/main"]);
    // A blob that is there is linked, not fetched: as after a commit that changed the readme.
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    resolve("org/model", &options).unwrap();
    assert!(!server.log().iter().any(|line| line.starts_with("GET /org")));
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn revisions_and_renamed_repositories() {
    let (server, _guard, options) = hub(model());
    let folder = resolve("org/model@v1", &options).unwrap();
    assert_eq!(fs::read_to_string(options.cache.join("models--org--model/refs/v1")).unwrap(), SHA);
    assert_eq!(resolve("org/model@pr/1", &options).unwrap(), folder);
    assert!(server.log().contains(&"GET /api/models/org/model/revision/pr%2F1".to_owned()));
    fails("org/model@nope", &options, ErrorKind::NotFound, &["no revision 'nope'"]);
}

#[test]
fn a_cut_connection_goes_on_where_it_ended() {
    let (server, _guard, options) = hub(Behaviour { cuts: 2, ..model() });
    let folder = resolve("org/model", &options).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let ranges: Vec<_> =
        server.log().into_iter().filter(|l| l.starts_with("GET /org") && l.contains("model.safe")).collect();
    let url = format!("GET /org/model/resolve/{SHA}/model.safetensors");
    assert_eq!(ranges, [url.clone(), format!("{url} bytes=150000-"), format!("{url} bytes=225000-")]);
}

#[test]
fn what_an_earlier_run_left_is_continued() {
    let (server, _guard, options) = hub(model());
    let data = weights();
    let blob = server::git_hash(&data);
    let blobs = options.cache.join("models--org--model/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{blob}.incomplete"));
    for (left, ranges) in [(100_000, " bytes=100000-"), (300_000, "none"), (300_001, "")] {
        let mut start = data.clone();
        start.resize(left, 0);
        fs::write(&part, &start).unwrap();
        let folder = resolve("org/model", &options).unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), data, "{left}");
        let log = server.log();
        let get = log.iter().find_map(|l| l.strip_prefix(&format!("GET /org/model/resolve/{SHA}/model.safetensors")));
        assert_eq!(get.unwrap_or("none"), ranges, "{left}");
        fs::remove_file(folder.join("model.safetensors")).unwrap();
        fs::remove_file(blobs.join(&blob)).unwrap();
        assert!(!part.exists());
    }
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let (_server, _guard, options) = hub(Behaviour { cuts: 1, no_ranges: true, ..model() });
    let folder = resolve("org/model", &options).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn files_in_a_storage_service() {
    let (server, _guard, mut options) =
        hub(Behaviour { storage: true, cuts: 1, gated: Some((401, "GatedRepo")), ..model() });
    options.token = Some("good".to_owned());
    let folder = resolve("org/model", &options).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert!(server.log().contains(&"GET /storage/model.safetensors bytes=150000-".to_owned()));
}

#[test]
fn gated_models_say_what_to_do() {
    let (server, _guard, mut options) = hub(Behaviour { gated: Some((401, "GatedRepo")), ..model() });
    let licence = format!("accept its licence at {}/org/model", options.endpoint);
    fails("org/model", &options, ErrorKind::Gated, &["cannot fetch 'org/model'", &licence, "set HF_TOKEN"]);
    options.token = Some("stranger".to_owned());
    server.change(|hub| hub.gated = Some((403, "GatedRepo")));
    fails("org/model", &options, ErrorKind::Gated, &["your token's account may not read it yet", &licence]);
    server.change(|hub| hub.gated = Some((401, "")));
    fails("org/model", &options, ErrorKind::Gated, &["does not accept the token in HF_TOKEN"]);
    server.change(|hub| hub.gated = Some((403, "")));
    fails("org/model", &options, ErrorKind::Gated, &["your token may not read 'org/model'"]);
    options.token = Some("good".to_owned());
    resolve("org/model", &options).unwrap();
}

#[test]
fn models_that_are_not_there() {
    let (server, _guard, mut options) = hub(model());
    fails("org/nothing", &options, ErrorKind::NotFound, &["no model 'org/nothing'", "private", "HF_TOKEN"]);
    options.token = Some("good".to_owned());
    fails("org/nothing", &options, ErrorKind::NotFound, &["no model 'org/nothing'"]);
    server.change(|hub| *hub = with_files(&[("README.md", "r"), ("a.onnx", "o")]));
    fails("org/model", &options, ErrorKind::NotFound, &["neither model.safetensors nor", "README.md, a.onnx"]);
    server.change(|hub| *hub = with_files(&[("a.pt", "a"), ("b.pt", "b")]));
    fails("org/model", &options, ErrorKind::NotFound, &["several .pt files"]);
}

#[test]
fn checkpoints_and_shards() {
    let (server, _guard, options) =
        hub(with_files(&[("README.md", "r"), ("sam2_hiera_tiny.pt", "PK"), ("sub/x.pt", "x")]));
    let folder = resolve("org/model", &options).unwrap();
    assert_eq!(fs::read_to_string(folder.join("sam2_hiera_tiny.pt")).unwrap(), "PK");
    assert_eq!(path("org/model", &options).unwrap(), folder);

    let index = r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}}"#;
    let files = [
        ("config.json", "{}"),
        ("model.safetensors.index.json", index),
        ("m-1.safetensors", "one"),
        ("m-2.safetensors", "two"),
    ];
    let (_server, _guard, options) = hub(with_files(&files));
    let folder = resolve("org/model", &options).unwrap();
    assert_eq!(fs::read_to_string(folder.join("m-2.safetensors")).unwrap(), "two");
    assert_eq!(path("org/model", &options).unwrap(), folder);
    fs::remove_file(folder.join("m-1.safetensors")).unwrap();
    fails("org/model", &Options { offline: true, ..options }, ErrorKind::NotFound, &["not in the cache"]);

    let evil = r#"{"weight_map":{"a":"../../../../evil"}}"#;
    let (_s, _guard, options) = hub(with_files(&[("config.json", "{}"), ("model.safetensors.index.json", evil)]));
    fails("org/model", &options, ErrorKind::Weights, &["\"../../../../evil\""]);
    drop(server);
}

#[test]
fn pipelines_are_fetched_part_by_part() {
    let index = r#"{"transformer":["diffusers","X"],"vae":["diffusers","Y"],"tokenizer":["t","Z"],"text_encoder_2":[null,null]}"#;
    let shards = r#"{"weight_map":{"a":"diffusion_pytorch_model-00001-of-00001.safetensors"}}"#;
    let (server, _guard, options) = hub(with_files(&[
        ("model_index.json", index),
        ("README.md", "no"),
        ("flux1-dev.safetensors", "no"),
        ("safety_checker/model.safetensors", "no"),
        ("tokenizer/vocab.json", r#"{"a":0}"#),
        ("transformer/config.json", "{}"),
        ("transformer/diffusion_pytorch_model.safetensors.index.json", shards),
        ("transformer/diffusion_pytorch_model-00001-of-00001.safetensors", "shard"),
        ("transformer/other/config.json", "no"),
        ("vae/config.json", r#"{"b":0}"#),
        ("vae/diffusion_pytorch_model.safetensors", "vae"),
        ("vae/diffusion_pytorch_model.fp16.safetensors", "no"),
    ]));
    let folder = resolve_pipeline("org/model", &options).unwrap();
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(read("transformer/diffusion_pytorch_model-00001-of-00001.safetensors"), "shard");
    assert_eq!(read("vae/diffusion_pytorch_model.safetensors"), "vae");
    // Each once; what two files have in common would be fetched once for both.
    assert_eq!(server.log().iter().filter(|line| line.starts_with("GET /org")).count(), 7);
    // From then on without a word, and without the network; a part that went is fetched again.
    assert_eq!(resolve_pipeline("org/model", &options).unwrap(), folder);
    let offline = Options { offline: true, ..options.clone() };
    assert_eq!(resolve_pipeline("org/model", &offline).unwrap(), folder);
    assert_eq!(server.log(), [""; 0]);
    fs::remove_file(folder.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(resolve_pipeline("org/model", &offline).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(resolve_pipeline("org/model", &options).unwrap(), folder);
    assert_eq!(read("vae/diffusion_pytorch_model.safetensors"), "vae");
    // Nobody who wants one file gets a pipeline.
    fails("org/model", &options, ErrorKind::NotFound, &["neither model.safetensors"]);
}

#[test]
fn offline_without_a_cache() {
    let (server, _guard, options) = hub(model());
    let expected = ["not in the cache", "impasto models pull org/model", "--model mini"];
    fails("org/model", &Options { offline: true, ..options.clone() }, ErrorKind::NotFound, &expected);
    assert!(path("org/model", &options).is_err());
    assert_eq!(server.log(), [""; 0]);
}

#[test]
fn no_network() {
    let (server, _guard, mut options) = hub(model());
    server.change(|hub| hub.down = Some(503));
    fails("org/model", &options, ErrorKind::Network, &["answered 503"]);
    server.change(|hub| hub.down = Some(429));
    fails("org/model", &options, ErrorKind::Network, &["patience"]);
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    options.endpoint = format!("http://{free}");
    fails("org/model", &options, ErrorKind::Network, &["cannot reach", "check the connection", "--model mini"]);
    options.endpoint = "not a url".to_owned();
    fails("org/model", &options, ErrorKind::Network, &["cannot reach"]);
}

#[test]
fn a_server_that_lies() {
    let (server, _guard, options) = hub(Behaviour { wrong_size: Some(400_000), ..model() });
    fails("org/model", &options, ErrorKind::Network, &["'config.json': 21 of 400000 bytes are here"]);
    server.change(|hub| hub.wrong_size = Some(10));
    fails("org/model", &options, ErrorKind::Network, &["more than the 10 bytes"]);
    server.change(|hub| (hub.wrong_size, hub.etag) = (None, Some("../../../evil")));
    fails("org/model", &options, ErrorKind::Network, &["the ETag is \"../../../evil\""]);
    server.change(|hub| hub.etag = Some(""));
    fails("org/model", &options, ErrorKind::Network, &["the ETag is \"\""]);
    let blobs = options.cache.join("models--org--model/blobs");
    let whole = fs::read_dir(blobs).unwrap().filter(|f| !f.as_ref().unwrap().path().ends_with(".incomplete"));
    assert!(whole.map(|f| f.unwrap().file_name()).all(|name| name.to_string_lossy().ends_with(".incomplete")));
}

#[test]
fn a_damaged_download_is_not_kept() {
    const OTHER: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
    let (server, _guard, options) = hub(Behaviour { etag: Some(OTHER), ..model() });
    fails("org/model", &options, ErrorKind::Network, &["'config.json' arrived damaged", OTHER]);
    let blobs = options.cache.join("models--org--model/blobs");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 0);
    // Storage names its files by what they hold.
    server.change(|hub| (hub.etag, hub.storage) = (None, true));
    assert_eq!(fs::read(resolve("org/model", &options).unwrap().join("model.safetensors")).unwrap(), weights());
}

#[test]
fn a_cache_that_cannot_be_written() {
    let (_server, guard, mut options) = hub(model());
    let file = guard.path().join("file");
    fs::write(&file, "").unwrap();
    options.cache = file.join("hub");
    fails("org/model", &options, ErrorKind::Io, &["cannot write", "file/hub"]);
}

#[test]
fn two_at_once_fetch_once() {
    let (server, _guard, options) = hub(model());
    let folders: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| resolve("org/model", &options).unwrap())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(folders.iter().all(|f| fs::read(f.join("model.safetensors")).unwrap() == weights()));
    let gets = server.log().iter().filter(|l| l.starts_with("GET /org") && l.ends_with("model.safetensors")).count();
    assert_eq!(gets, 1);
}
