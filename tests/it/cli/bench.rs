//! `impasto bench` and `--trace`.

use super::{Place, Run, sample};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

/// A shape that takes no time.
const SMALL: &str = r#"[{"call":{"kernel":"elementwise","inputs":[{"shape":[4096],"dtype":"F32"},{"shape":[64],"dtype":"F32"}],
    "args":[{"input":0},{"input":1},"Add"]},"count":3,"scope":"somewhere"}]"#;

#[test]
fn rows_are_measured_and_compared() {
    let place = Place::new();
    std::fs::write(place.at("small.json"), SMALL).unwrap();
    let line = "bench run --shapes small.json --samples 5 --warm-up 1";
    let report = place.json(line);
    let row = &report["rows"][0];
    let number = |name: &str| row[name].as_f64().unwrap();
    assert_eq!((row["shape"].as_str(), row["work"]["count"].as_u64()), (Some("4096 64 add"), Some(3)));
    assert!(number("p10") <= number("median") && number("median") <= number("p90") && number("median") > 0.0);
    assert!(row["samples"].as_array().unwrap().len() >= 5 && row["default"] == true);
    assert!(report["roofs"]["fma"].as_f64().unwrap() > 0.0 && report["adapter"]["max_binding"].as_u64().unwrap() > 0);

    let text = place.ok(line).stdout;
    assert!(text.contains("elementwise 4096 64 add") && text.contains("% mem"), "{text}");

    // Against itself nothing is slower; against a tenth of the time, all is.
    let write = |name: &str, report: &Value| std::fs::write(place.at(name), report.to_string()).unwrap();
    write("new.json", &report);
    place.ok("bench compare new.json new.json");
    let mut base = report.clone();
    base["rows"][0]["median"] = (number("median") / 10.0).into();
    base["rows"][0]["mad"] = 0.into();
    let mut new = report.clone();
    new["rows"][0]["mad"] = 0.into();
    write("base.json", &base);
    write("new.json", &new);
    let run = place.run(&["bench", "compare", "base.json", "new.json", "--threshold", "5%"]);
    assert!(run.code == 1 && run.stdout.contains("SLOWER"), "{}{}", run.stdout, run.stderr);
    base["adapter"]["name"] = "another".into();
    write("base.json", &base);
    refused(&place, "bench compare base.json new.json", 1, "not comparable");
}

fn refused(place: &Place, line: &str, code: i32, message: &str) {
    let run: Run = place.run(&line.split_whitespace().collect::<Vec<_>>());
    assert!(run.code == code && run.stderr.contains(message), "{line}: {} {}", run.code, run.stderr);
}

#[test]
fn misuse_is_told() {
    let place = Place::new();
    std::fs::write(place.at("garbage.json"), "{").unwrap();
    refused(&place, "bench run -p [", 2, "unclosed");
    refused(&place, "bench run -p nothing_like_it", 1, "bench list");
    refused(&place, "bench run --dtype f99", 2, "f16");
    refused(&place, "bench run --shapes nowhere", 1, "sam2-tiny");
    refused(&place, "bench run --shapes garbage.json", 1, "no shapes");
    refused(&place, "bench run --variant nothing", 2, "KERNEL=NAME");
    refused(&place, "doctor --variant all", 2, "KERNEL=NAME");
    refused(&place, "bench compare nowhere.json nowhere.json", 1, "cannot read");
    refused(&place, "bench compare garbage.json garbage.json", 1, "bench run --json");
    refused(&place, "bench compare garbage.json garbage.json --threshold much", 2, "5%");
    // As an adapter without timestamps.
    std::fs::write(place.at("small.json"), SMALL).unwrap();
    let run = |clock: &str| {
        let args = ["bench", "run", "--shapes", "small.json", "--samples", "5", "--warm-up", "1", "--clock", clock];
        Run::of(place.command(&args).env("IMPASTO_DEFAULT_LIMITS", "1").output().unwrap())
    };
    let device = run("device");
    assert!(device.code == 1 && device.stderr.contains("no timestamp queries"), "{}", device.stderr);
    assert_eq!(run("host").code, 0);
}

/// The calls of a model of twelve billion weights, none of which needs memory.
#[test]
fn a_large_model_is_listed_without_its_weights() {
    let place = Place::new();
    let works = place.json("bench list --shapes flux1-dev");
    let works = works.as_array().unwrap();
    let flops = |w: &Value| {
        let (call, count) = (&w["call"], w["count"].as_u64().unwrap());
        let product = &call["args"][2];
        let size = |name: &str| product[name].as_u64().unwrap();
        if call["kernel"] == "matmul" { 2 * count * size("batch") * size("m") * size("n") * size("k") } else { 0 }
    };
    // The linear layers of 4608 tokens.
    let tera = works.iter().map(flops).sum::<u64>() as f64 * 1e-12;
    assert!((59.0..60.0).contains(&tera), "{tera} TFLOP");
    let scope = |text: &str| works.iter().any(|w| w["scope"].as_str().unwrap().contains(text));
    assert!(scope("step: double_blocks.0.img_attn") && scope("step: single_blocks.0"), "{works:?}");
}

#[test]
fn tuning_is_remembered_and_removed() {
    let place = Place::new();
    std::fs::write(place.at("small.json"), SMALL).unwrap();
    let run = |line: &str| {
        let args: Vec<&str> = line.split_whitespace().collect();
        let run = Run::of(place.command(&args).env("IMPASTO_CACHE", place.at("cache")).output().unwrap());
        assert_eq!(run.code, 0, "{line}: {}", run.stderr);
        run.stdout
    };
    let files = || std::fs::read_dir(place.at("cache")).map_or(0, Iterator::count);
    run("bench tune --shapes small.json --samples 5 --warm-up 1 --dry-run");
    assert_eq!(files(), 0);
    let path = run("bench tune --shapes small.json --samples 5 --warm-up 1");
    let path = path.lines().last().unwrap();
    assert!(files() == 1 && std::path::Path::new(path).is_file(), "{path}");
    // Whatever is there, the program runs.
    std::fs::write(path, "nonsense").unwrap();
    run("doctor --kernel elementwise");
    assert!(run("bench tune --remove").contains("removed"));
    assert_eq!((files(), run("bench tune --remove").trim()), (0, "nothing was remembered"));
}

/// Killed after its first measurement, with many to come.
#[test]
fn tuning_that_is_interrupted_leaves_what_was_remembered() {
    let place = Place::new();
    std::fs::write(place.at("small.json"), SMALL).unwrap();
    let path = place.ok("bench tune --shapes small.json --samples 5 --warm-up 1").stdout;
    let path = std::path::Path::new(path.lines().last().unwrap());
    let before = std::fs::read(path).unwrap();
    let args = ["bench", "tune", "--shapes", "mini", "--samples", "5", "--warm-up", "1"];
    let mut tuning = place.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(tuning.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("ms") && tuning.try_wait().unwrap().is_none(), "{first}");
    tuning.kill().unwrap();
    tuning.wait().unwrap();
    assert_eq!(std::fs::read(path).unwrap(), before);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_trace_has_host_and_device() {
    let place = Place::new();
    let picture = sample();
    place.ok(&format!("segment {} --model mini --point 100,100 -o mask.png --trace trace.json", picture));
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(place.at("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |name: &str| events.iter().filter(|e| e["name"] == name).count();
    assert!(named("encode") == 1 && named("bind") >= 2 && named("load weights") == 1, "{:?}", &events[..4]);
    let device: Vec<&Value> = events.iter().filter(|e| e["args"]["flop"].is_u64()).collect();
    // An adapter without timestamps has none.
    for e in &device {
        assert!(e["dur"].as_f64().unwrap() >= 0.0 && e["args"]["variant"].is_string() && e["args"]["bytes"].is_u64());
    }
    assert!(device.is_empty() || device.iter().any(|e| e["args"]["scope"].as_str().unwrap().contains("blocks.0.attn")));
}
