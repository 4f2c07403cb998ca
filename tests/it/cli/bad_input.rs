//! What cannot work: a message that says why, the right exit code, no file that was not there before.

use super::{Place, sample};

/// The output that runs here ask for.
const OUT: &str = "out.png";

/// A folder with good and bad things in it.
fn place() -> Place {
    let place = Place::new();
    let png = std::fs::read(sample()).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(place.at(name), bytes).unwrap();
    write("good.png", &png);
    write("truncated.png", &png[..png.len() / 2]);
    write("empty.png", b"");
    write("text.png", b"Dear reader, this is not a picture.");
    let blank = |name: &str, w: u32, h: u32| image::RgbImage::new(w, h).save(place.at(name)).unwrap();
    blank("wide.png", 20_000, 3);
    blank("one.png", 1, 1);
    blank("black.png", 480, 360);
    let mini = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/sam2-mini/model.safetensors")).unwrap();
    write("cut.safetensors", &mini[..mini.len() / 2]);
    write("other.safetensors", &super::others::other_model());
    std::fs::create_dir(place.at("folder")).unwrap();
    place
}

/// Runs `segment ARGS --model mini -o out.png`, each once: exit code and a part of the message.
fn refused(place: &Place, cases: &[(&str, i32, &str)]) {
    let before = place.files();
    for (line, code, says) in cases {
        let mut line = format!("segment {line}");
        for (flag, default) in [(" --model", "mini"), (" -o", OUT)] {
            if !line.contains(flag) {
                line += &format!("{flag} {default}");
            }
        }
        let run = place.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(run.code, *code, "impasto {line}: {}", run.stderr);
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(says), "impasto {line}: {}", run.stderr);
        assert!(*code == 2 || run.stderr.lines().count() == 1, "impasto {line}: {}", run.stderr);
        assert!(run.stdout.is_empty(), "{}", run.stdout);
        assert_eq!(place.files(), before, "impasto {line}");
    }
}

#[test]
fn pictures() {
    refused(
        &place(),
        &[
            ("none.png --point 5,5", 1, "none.png: no such file"),
            ("truncated.png --point 5,5", 1, "truncated"),
            ("empty.png --point 5,5", 1, "empty"),
            ("text.png --point 5,5", 1, "not a PNG, JPEG or WebP"),
            ("folder --point 5,5", 1, "no PNG, JPEG or WebP picture in folder"),
            ("*.gif --point 5,5", 1, "no file matches"),
            ("good.png --mask text.png", 1, "not a PNG, JPEG or WebP"),
            ("good.png --mask black.png", 1, "nothing is set"),
            ("good.png --mask none.safetensors", 1, "no such file"),
            ("good.png --mask other.safetensors", 1, "64x64 logits, not 6"),
            ("--embedding other.safetensors --point 5,5", 1, "not an embedding"),
        ],
    );
}

#[test]
fn prompts() {
    refused(
        &place(),
        &[
            ("good.png --point 481,5", 1, "outside the picture of 480x360"),
            ("good.png --point -1,5", 1, "outside"),
            ("one.png --point 2,0", 1, "outside the picture of 1x1"),
            ("good.png --point NaN,5", 1, "not two numbers"),
            ("good.png --point inf,5", 1, "not two numbers"),
            ("good.png --box 50,50,10,10", 1, "reversed"),
            ("good.png --box 10,10,nan,50", 1, "not four numbers"),
            ("good.png --box 10,10,500,50", 1, "not inside"),
            ("good.png --point 5", 2, "expected X,Y"),
            ("good.png", 2, "nothing to segment"),
            ("--point 5,5", 2, "PIC"),
            ("good.png one.png --point 0,0", 2, "{stem}"),
            ("good.png --point 5,5 --image-size 100", 1, "multiple of 32"),
            ("good.png --point 5,5 --stability-noise 300", 2, "--stability-noise"),
        ],
    );
}

#[test]
fn outputs() {
    let place = place();
    refused(
        &place,
        &[
            ("good.png --point 5,5 -o nowhere/out.png", 1, "there is no folder nowhere"),
            ("good.png --point 5,5 -o folder", 1, "no extension"),
            ("good.png --point 5,5 -o out.gif", 1, "cannot write .gif"),
            ("good.png --point 5,5 -o out.jpg", 1, "JPEG"),
            ("good.png --point 5,5 --overlay out.txt", 1, "cannot write .txt"),
            ("good.png --point 5,5 -o good.png", 1, "is an input"),
            ("good.png --point 5,5 --overlay out.png", 1, "two outputs"),
            ("good.png --point 5,5 --rle folder", 1, "it is a folder"),
            ("good.png folder/../good.png --point 5,5 -o {stem}.png", 1, "is an input"),
        ],
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::{PermissionsExt, symlink};
        if std::path::Path::new("/dev/full").exists() {
            symlink("/dev/full", place.at("full.png")).unwrap();
            refused(&place, &[("good.png --point 5,5 -o full.png", 1, "cannot write full.png")]);
            let line = format!("segment {} --point 5,5 --model mini --json", sample());
            let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            let output = place.command(&line.split(' ').collect::<Vec<_>>()).stdout(full).output().unwrap();
            let run = super::Run::of(output);
            assert!(run.code == 1 && run.stderr.contains("cannot write to stdout"), "{}", run.stderr);
        }
        std::fs::create_dir(place.at("locked")).unwrap();
        std::fs::set_permissions(place.at("locked"), std::fs::Permissions::from_mode(0o555)).unwrap();
        // Root may write anywhere.
        if std::fs::write(place.at("locked/probe"), "").is_err() {
            refused(&place, &[("good.png --point 5,5 -o locked/out.png", 1, "cannot write locked/out.png")]);
        }
    }
}

#[test]
fn models_and_adapters() {
    refused(
        &place(),
        &[
            ("good.png --point 5,5 --model none.safetensors", 1, "no file or folder 'none.safetensors'"),
            ("good.png --point 5,5 --model cut.safetensors", 1, "cut.safetensors"),
            ("good.png --point 5,5 --model other.safetensors", 1, "other.safetensors"),
            ("good.png --point 5,5 --model text.png", 1, "text.png"),
            ("good.png --point 5,5 --model folder", 1, "folder"),
            ("good.png --point 5,5 --model nobody", 1, "mini"),
            ("good.png --point 5,5 --model tiny --offline", 1, "--model mini"),
            ("good.png --point 5,5 --adapter imaginary", 1, "no adapter matches `imaginary`"),
            ("good.png --point 5,5 --backend glide", 2, "vulkan"),
            ("good.png --point 5,5 --variant matmul=best", 2, "no variant best"),
            ("good.png --point 5,5 --max-memory 1MiB", 1, "budget"),
            ("good.png --point 5,5 --max-memory lots", 2, "2GiB"),
        ],
    );
}

/// Without a `--model` and without a network.
#[test]
fn the_default_model_needs_a_network_and_says_what_does_not() {
    let place = place();
    let run = place.run(&["segment", "good.png", "--point", "5,5", "-o", OUT]);
    assert_eq!(run.code, 1);
    for part in ["facebook/sam2.1-hiera-tiny", "--model mini"] {
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
    assert!(!place.at(OUT).exists());
}

/// Odd, but pictures.
#[test]
fn tiny_and_narrow_pictures_work() {
    let place = place();
    for (picture, prompt) in
        [("one.png", "--point 0,0"), ("wide.png", "--point 19999,1"), ("wide.png", "--box 5,0,900,3")]
    {
        let json = place.json(&format!("segment {picture} {prompt} --model mini -o {OUT}"));
        super::checked_mask(&json["masks"][0], "rle");
    }
}
