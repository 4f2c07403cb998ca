//! What cannot work: a message that says why, and all that was done before.

use super::{drawn, frames, lines, order, with_stdin};
use crate::cli::{Place, Run, sample};
use impasto::image::{Picture, output};

fn refused(place: &Place, cases: &[(&str, i32, &str)]) {
    for (line, code, says) in cases {
        let line = format!("track {line} --model mini");
        let run = place.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(run.code, *code, "impasto {line}: {}", run.stderr);
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(says), "impasto {line}: {}", run.stderr);
        assert!(*code == 2 || run.stderr.lines().count() == 1, "impasto {line}: {}", run.stderr);
        assert!(run.stdout.is_empty() && !place.at("o").exists(), "impasto {line}");
    }
}

#[test]
fn clips_and_prompts() {
    let place = Place::new();
    frames(&place, 3);
    std::fs::create_dir(place.at("empty")).unwrap();
    std::fs::create_dir(place.at("twice")).unwrap();
    for name in ["twice/a.png", "twice/a.webp"] {
        output::save_picture(&place.at(name), &drawn(1)[0]).unwrap();
    }
    std::fs::write(place.at("nothing"), "").unwrap();
    image::RgbImage::new(64, 64).save(place.at("black.png")).unwrap();
    refused(
        &place,
        &[
            ("none --point 0:5,5 --out o", 1, "none: no such file"),
            ("nothing --point 0:5,5 --out o", 1, "the file is empty"),
            ("empty --point 0:5,5 --out o", 1, "no PNG, JPEG or WebP picture in folder empty"),
            ("in/0.png --point 0:5,5 --out o", 1, "a single picture is no clip"),
            ("twice --point 0:5,5 --out o", 1, "two frames are called a"),
            ("in --point 3:5,5 --out o", 1, "the clip has frames 0 to 2: a prompt is on frame 3"),
            ("in --point 0:5,5 --from 3 --out o", 1, "cannot be begun at 3"),
            ("in --point 0:5,5 --from 1 --out o", 1, "the prompt on frame 0 is not among the frames"),
            ("in --point 0:257,5 --out o", 1, "object 1 on frame 0: the point 257,5 is outside the picture of 256x256"),
            ("in --box 1:50,50,10,10@3 --out o", 1, "object 3 on frame 1: the box 50,50,10,10 is empty or reversed"),
            ("in --mask 0:black.png --out o", 1, "nothing is set"),
            ("in --mask 0:none.png --out o", 1, "no such file"),
            ("in --point 0:5,5@300 --out o", 1, "object 300: a palette has room for objects 1 to 255"),
            ("in --out o", 2, "nothing to follow"),
            ("in --point 5,5 --out o", 2, "the frame comes first"),
            ("in --mask 0:in/0.png --mask 0:in/1.png --out o", 2, "object 1 has two masks on frame 0"),
            ("in --mask 0:in/0.png --point 0:5,5 --out o", 2, "has a mask on frame 0"),
            ("in --box 0:1,1,9,9@2 --box 0:1,1,8,8@2 --out o", 2, "object 2 has two boxes on frame 0"),
            ("in --point 0:5,5 --from 2 --to 1 --out o", 2, "--from lies behind --to"),
            ("- --point 0:5,5 --out o", 2, "--raw 1280x720"),
            ("in --raw 256x256 --point 0:5,5 --out o", 2, "--raw 1280x720"),
            ("in --point 0:5,5", 2, "no output is asked for"),
            ("in --point 0:5,5 --json --per-object", 2, "--per-object says how"),
            ("in --point 0:5,5 --out nothing", 1, "it is a file, and should be a folder"),
            ("in --point 0:5,5 --out no/o", 1, "there is no folder no"),
            ("in --point 0:5,5 --out o --cutouts ./o", 1, "has the clip or another output"),
            ("in --point 0:5,5 --out in", 1, "has the clip or another output"),
            ("in --point 0:5,5 --overlay o.txt", 1, "an overlay is a .gif, .mp4"),
            ("in --point 0:5,5 --json=no/such/file", 1, "there is no folder no/such"),
            ("in --point 0:5,5 --out o --resume --state s", 1, "s: no such file: no run ended early"),
        ],
    );
}

#[test]
fn what_was_done_before_is_kept() {
    let place = Place::new();
    frames(&place, 4);
    let wide = Picture::new(300, 256, vec![9; 300 * 256 * 3]).unwrap();
    output::save_picture(&place.at("in/2.png"), &wide).unwrap();
    let flags = "--model mini --point 0:97,123 --json --out o";
    let run = place.run(&format!("track in {flags}").split_whitespace().collect::<Vec<_>>());
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("error: frame 2 (2) is 300x256, those before it are 256x256"), "{}", run.stderr);
    assert_eq!(order(&lines(&run.stdout)), [0, 1]);
    assert!(place.at("o/1.png").exists() && !place.at("o/2.png").exists());

    // A stream that ends within a frame, one of another size, and one that ends before a prompt.
    let raw: Vec<u8> =
        (0..2).flat_map(|f| Picture::load(place.at(&format!("in/{f}.png"))).unwrap().rgb().to_vec()).collect();
    for (line, bytes, says) in [
        (
            format!("track - --raw 256x256 {flags}"),
            &raw[..raw.len() - 7],
            "frame 1: it is cut short: a raw frame of 256x256",
        ),
        (
            format!("track - --raw 256x250 {flags}"),
            &raw[..],
            "it is cut short: a raw frame of 256x250 has 192000 bytes",
        ),
        (
            format!("track - --raw 256x256 {flags} --point 7:9,9"),
            &raw[..],
            "the clip has 2 frames: it ends before frame 7",
        ),
    ] {
        let run = with_stdin(&place, &line, bytes);
        assert!(run.code == 1 && run.stderr.contains(says), "{line}: {}", run.stderr);
        let done = lines(&run.stdout).len();
        assert!(done > 0 && run.stderr.contains(&format!("note: {done} frames are done")), "{}", run.stderr);
    }
    let run = with_stdin(&place, &format!("track - --raw 256x256 {flags}"), &raw[..100]);
    assert!(run.code == 1 && run.stderr.contains("100 came") && run.stdout.is_empty(), "{}", run.stderr);

    #[cfg(unix)]
    if std::path::Path::new("/dev/full").exists() {
        std::os::unix::fs::symlink("/dev/full", place.at("full.jsonl")).unwrap();
        let line = "track in --model mini --point 0:97,123 --json=full.jsonl --state s";
        let run = place.run(&line.split_whitespace().collect::<Vec<_>>());
        assert!(run.code == 1 && run.stderr.starts_with("error: cannot write full.jsonl"), "{}", run.stderr);
    }
}

#[test]
fn without_ffmpeg_and_with_one_that_dies() {
    let place = Place::new();
    frames(&place, 2);
    std::fs::write(place.at("clip.mp4"), "as if it were a video").unwrap();
    let with_path = |line: &str, path: &std::path::Path| {
        let mut command = place.command(&line.split_whitespace().collect::<Vec<_>>());
        Run::of(command.env("PATH", path).output().unwrap())
    };
    let flags = "--model mini --point 0:97,123";
    for line in [format!("track clip.mp4 {flags} --json"), format!("track in {flags} --overlay over.mp4")] {
        let run = with_path(&line, &place.at("nowhere"));
        assert!(run.code == 1 && run.stderr.contains("there is none in PATH: install it"), "{}", run.stderr);
        assert!(run.stdout.is_empty() && !place.at("over.mp4").exists());
    }
    assert_eq!(place.files(), ["clip.mp4", "in"], "nothing is left");

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir(place.at("bin")).unwrap();
        let frame = Picture::load(place.at("in/0.png")).unwrap();
        let ppm = [b"P6\n256 256\n255\n", frame.rgb()].concat();
        std::fs::write(place.at("bin/frame.ppm"), &ppm).unwrap();
        let tool = |name: &str, script: &str| {
            std::fs::write(place.at(&format!("bin/{name}")), format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(place.at(&format!("bin/{name}")), std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let path = format!("{}:/usr/bin:/bin", place.at("bin").display());
        tool("ffprobe", "exit 1");
        for (end, says) in [
            ("head -c 1000 bin/frame.ppm; kill -9 $$", "ffmpeg was killed (signal 9)"),
            ("echo 'moov atom not found' >&2; exit 1", "ffmpeg failed (exit code 1): moov atom not found"),
            ("echo 'File ended prematurely' >&2", "ffmpeg says: File ended prematurely"),
            ("head -c 1000 bin/frame.ppm", "ffmpeg ended within a frame"),
            ("echo nonsense", "ffmpeg gave no picture"),
        ] {
            tool("ffmpeg", &format!("cat bin/frame.ppm bin/frame.ppm; {end}"));
            let run = with_path(&format!("track clip.mp4 {flags} --json"), path.as_ref());
            assert!(run.code == 1 && run.stderr.contains(says), "{}", run.stderr);
            assert!(run.stderr.contains("frame 2: clip.mp4, of which 2 frames could be read"), "{}", run.stderr);
            assert_eq!(order(&lines(&run.stdout)), [0, 1]);
        }
        // One that dies while the overlay is written.
        tool("ffmpeg", "head -c 1000 > /dev/null; echo 'no space' >&2; exit 1");
        let run = with_path(&format!("track in {flags} --json --overlay over.mp4"), path.as_ref());
        assert!(
            run.code == 1 && run.stderr.contains("cannot write over.mp4: ffmpeg failed (exit code 1): no space"),
            "{}",
            run.stderr
        );
        assert!(!place.at("over.mp4").exists());
    }
    // Arguments of the parser are those of the others.
    let run = place.run(&["track", &sample(), "--point", "0:5,5", "--json"]);
    assert!(run.code == 1 && run.stderr.contains("a single picture"), "{}", run.stderr);
}
