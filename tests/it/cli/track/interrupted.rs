//! Runs that end early keep what is done, and go on to the same results.

use super::{frames, lines, order};
use crate::cli::Place;

const LINE: &str = "track in --model mini --point 0:97,123 --point 3:60,140@2 --json=out.jsonl --out masks";

fn read(place: &Place, name: &str) -> String {
    std::fs::read_to_string(place.at(name)).unwrap()
}

#[test]
fn a_broken_frame_can_be_mended() {
    let place = Place::new();
    frames(&place, 7);
    place.ok(LINE);
    let expected = read(&place, "out.jsonl");
    let masks: Vec<Vec<u8>> = (0..7).map(|f| std::fs::read(place.at(&format!("masks/{f}.png"))).unwrap()).collect();
    std::fs::remove_dir_all(place.at("masks")).unwrap();

    let whole = std::fs::read(place.at("in/5.png")).unwrap();
    std::fs::write(place.at("in/5.png"), &whole[..whole.len() / 2]).unwrap();
    let run = place.run(&LINE.split_whitespace().collect::<Vec<_>>());
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.starts_with("error: frame 5: ") && run.stderr.contains("in/5.png"), "{}", run.stderr);
    let (_, command) = run.stderr.split_once("note: 5 frames are done; to go on: impasto ").unwrap();
    assert_eq!(command.trim(), format!("{LINE} --resume"));
    assert_eq!(order(&lines(&read(&place, "out.jsonl"))), [0, 1, 2, 3, 4]);
    assert!(place.at("masks/4.png").exists() && !place.at("masks/5.png").exists());

    // Of another run nothing is taken.
    let other = place.run(&format!("{LINE} --resume --from 1 --point 1:9,9").split_whitespace().collect::<Vec<_>>());
    assert!(
        other.code == 1 && other.stderr.contains("another run") || other.stderr.contains("not among"),
        "{}",
        other.stderr
    );
    let other = place.run(&format!("{LINE} --resume --fill-holes 3").split_whitespace().collect::<Vec<_>>());
    assert!(other.code == 1 && other.stderr.contains("impasto-track.state"), "{}", other.stderr);

    std::fs::write(place.at("in/5.png"), whole).unwrap();
    place.ok(command.trim());
    assert_eq!(read(&place, "out.jsonl"), expected);
    for (f, mask) in masks.iter().enumerate() {
        assert!(*mask == std::fs::read(place.at(&format!("masks/{f}.png"))).unwrap(), "frame {f}");
    }
    assert!(!place.at("masks/impasto-track.state").exists());
    let run = place.run(&format!("{LINE} --resume").split_whitespace().collect::<Vec<_>>());
    assert!(run.code == 1 && run.stderr.contains("no run ended early here"), "{}", run.stderr);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done() {
    use std::{
        io::{BufRead, BufReader, Read},
        process::{Command, Stdio},
    };
    let place = Place::new();
    frames(&place, 8);
    for reverse in ["", " --both"] {
        let line = format!("track in --model mini --point 4:97,123{reverse} --json --overlay over.gif");
        let line = if reverse.is_empty() {
            line.replace("--point 4", "--point 0")
        } else {
            line.replace(" --overlay over.gif", "")
        };
        let expected = place.ok(&line).stdout;
        std::fs::remove_file(place.at("over.gif")).ok();
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut child = place.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        out.read_line(&mut text).unwrap();
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        out.read_to_string(&mut text).unwrap();
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{told}");
        let done = text.lines().count();
        assert!((1..8).contains(&done) && expected.starts_with(&text), "{text}");
        assert!(told.contains("interrupted") && told.contains(&format!("{done} frames are done")), "{told}");
        let (_, command) = told.split_once("to go on: impasto ").unwrap();
        if reverse.is_empty() {
            // The film so far is whole, and is not written over.
            let film = impasto::image::frames::Clip::open(&place.at("over.gif")).unwrap();
            assert_eq!(film.length(), impasto::image::frames::Length::Exact(done));
            assert!(command.contains("--overlay over.2.gif"), "{command}");
            let run = place.run(&[words.clone(), vec!["--resume"]].concat());
            assert!(run.code == 1 && run.stderr.contains("over.gif has the frames before"), "{}", run.stderr);
        }
        text += &place.ok(command.trim()).stdout;
        assert_eq!(text, expected);
    }
}
