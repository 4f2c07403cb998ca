//! Clips of every kind give the same frames; what is broken says what and where.

use super::*;
use crate::{error::Error, image::testing::noise};
use std::io::Cursor;

/// Six frames of few colours, so that a GIF keeps them.
fn frames() -> Vec<Picture> {
    let pixel =
        |f: usize, i: usize| if (i / 5 + i % 24 + f).is_multiple_of(3) { [250, 20, 10] } else { [0, 90, f as u8 * 40] };
    (0..6).map(|f| Picture::new(24, 16, (0..24 * 16).flat_map(|i| pixel(f, i)).collect()).unwrap()).collect()
}

fn all(mut clip: Clip) -> Result<Vec<Picture>> {
    (0..).map_while(|i| clip.frame(i).transpose()).collect()
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (i, frame) in frames().iter().enumerate() {
        // 10 comes behind 9 as people count.
        crate::image::output::save_picture(&dir.path().join(format!("f{}.png", i + 7)), frame).unwrap();
    }
    dir
}

fn says(result: Result<impl std::fmt::Debug, Error>, kind: ErrorKind, what: &str) {
    let e = result.unwrap_err();
    assert!(e.kind() == kind && e.to_string().contains(what), "{e:?}");
}

#[test]
fn a_folder_is_in_natural_order_and_read_when_asked() {
    let dir = folder();
    std::fs::write(dir.path().join("notes.txt"), "no frame").unwrap();
    std::fs::write(dir.path().join("f9.png"), "no picture").unwrap();
    let mut clip = Clip::open(dir.path()).unwrap();
    assert_eq!((clip.length(), clip.size(), clip.seeks(), clip.rate()), (Length::Exact(6), (24, 16), true, None));
    assert_eq!((clip.name(3), clip.name(9)), ("f10".into(), "00009".into()));
    let expected = frames();
    for i in [5, 0, 3, 0] {
        assert_eq!(clip.frame(i).unwrap().as_ref(), Some(&expected[i]), "{i}");
    }
    assert!(clip.frame(6).unwrap().is_none());
    says(clip.frame(2), ErrorKind::Input, "f9.png");
    assert_eq!(clip.frame(1).unwrap().as_ref(), Some(&expected[1]), "the others can still be had");
    says(Clip::open(&dir.path().join("none")), ErrorKind::NotFound, "no such file");
    says(Clip::open(tempfile::tempdir().unwrap().path()), ErrorKind::NotFound, "no PNG, JPEG or WebP");
    says(Clip::open(&dir.path().join("f7.png")), ErrorKind::Input, "a single picture");
}

#[test]
fn raw_frames_come_one_after_the_other() {
    let bytes: Vec<u8> = frames().iter().flat_map(|f| f.rgb().to_vec()).collect();
    let open = |bytes: &[u8]| Clip::raw(Box::new(Cursor::new(bytes.to_vec())), 24, 16);
    assert_eq!(all(open(&bytes).unwrap()).unwrap(), frames());
    let mut clip = open(&bytes).unwrap();
    assert_eq!((clip.length(), clip.seeks()), (Length::Unknown, false));
    assert_eq!(clip.frame(2).unwrap(), Some(frames()[2].clone()));
    says(clip.frame(1), ErrorKind::Argument, "has gone by");
    let mut cut = open(&bytes[..24 * 16 * 3 * 2 + 100]).unwrap();
    assert!(cut.frame(1).unwrap().is_some());
    says(cut.frame(2), ErrorKind::Input, "frame 2: it is cut short");
    assert!(cut.frame(3).unwrap().is_none(), "after an error there is nothing");
    says(open(b""), ErrorKind::Input, "no frame");
    for (w, h) in [(0, 5), (usize::MAX, 2), (1 << 20, 1 << 20)] {
        says(Clip::raw(Box::new(std::io::empty()), w, h), ErrorKind::Input, "cannot be read");
    }
}

#[test]
fn streams_can_be_kept_and_had_in_any_order() {
    let expected = frames();
    let stream = |n: usize| Clip::stream(Box::new(frames().into_iter().take(n).map(Ok)), Some(12.5)).unwrap();
    let mut clip = stream(6).seekable().unwrap();
    assert_eq!((clip.seeks(), clip.rate()), (true, Some(12.5)));
    for i in [4, 5, 0, 2, 0] {
        assert_eq!(clip.frame(i).unwrap().as_ref(), Some(&expected[i]), "{i}");
    }
    assert!(clip.frame(6).unwrap().is_none());
    let mut late = stream(6);
    late.frame(3).unwrap();
    says(late.seekable(), ErrorKind::Argument, "have gone by");
    // Frames of other sizes keep their places.
    let mixed = vec![noise(9, 4), noise(3, 5), noise(8, 2)];
    let mut clip = Clip::stream(Box::new(mixed.clone().into_iter().map(Ok)), None).unwrap().seekable().unwrap();
    for i in [2, 1, 0] {
        assert_eq!(clip.frame(i).unwrap().as_ref(), Some(&mixed[i]));
    }
}

#[test]
fn animations_are_composed_and_what_is_cut_off_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.gif");
    let mut movie = crate::image::movie::Movie::create(&path, 20.0, (24, 16)).unwrap();
    frames().iter().try_for_each(|f| movie.add(f)).unwrap();
    assert!(!path.exists(), "it appears when it is complete");
    movie.finish().unwrap();
    let clip = Clip::open(&path).unwrap();
    assert_eq!((clip.length(), clip.size(), clip.rate()), (Length::Exact(6), (24, 16), Some(20.0)));
    assert_eq!(all(clip).unwrap(), frames());

    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let mut cut = Clip::open(&path).unwrap();
    assert!(cut.frame(1).unwrap().is_some());
    let error = (2..6).find_map(|i| cut.frame(i).err()).unwrap();
    assert!(error.to_string().contains("damaged or truncated"), "{error}");
    std::fs::write(&path, &bytes[..20]).unwrap();
    says(Clip::open(&path), ErrorKind::Input, "clip.gif");
    crate::image::output::save_picture(&dir.path().join("one.webp"), &noise(8, 8)).unwrap();
    says(Clip::open(&dir.path().join("one.webp")), ErrorKind::Input, "a single picture");
}

/// Skipped, and loudly, where there is no ffmpeg.
#[test]
fn videos_come_through_ffmpeg_whatever_their_name() {
    let dir = tempfile::tempdir().unwrap();
    if std::process::Command::new("ffmpeg").arg("-version").output().is_err() {
        eprintln!("SKIPPED: ffmpeg is not installed");
        return;
    }
    for name in ["-i.mkv", "concat:a|b.mkv", "a b'\"$(x).mkv"] {
        let path = dir.path().join(name);
        let mut movie = crate::image::movie::Movie::create(&path, 30.0, (24, 16)).unwrap();
        frames().iter().try_for_each(|f| movie.add(f)).unwrap();
        movie.finish().unwrap();
        let clip = Clip::open(&path).unwrap();
        assert_eq!((clip.length(), clip.size(), clip.rate()), (Length::About(6), (24, 16), Some(30.0)), "{name}");
        assert_eq!(all(clip).unwrap().len(), 6, "{name}");
    }
    let text = dir.path().join("text.mp4");
    std::fs::write(&text, "Dear reader, this is no video.").unwrap();
    says(Clip::open(&text), ErrorKind::Input, "Invalid data");
}
