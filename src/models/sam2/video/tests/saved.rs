//! Sessions in files, and prompts that are taken back.

use super::{block_on, frame, get, model, prompt, session, show, track};
use crate::{
    error::{ErrorKind, Result},
    graph::Control,
    image::{Mask, Picture},
    models::sam2::{
        prompt::Prompt,
        video::{MaskPrompts, Options, Session, Tracked},
    },
    weights::Weights,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

fn save(s: &mut Session) -> Vec<u8> {
    block_on(s.save(Control::default())).unwrap()
}

fn fresh() -> Session {
    session(Options::default(), model(&[]))
}

/// Two objects, tracked up to a frame, the second prompted on frame 2.
fn tracked_to(last: usize) -> Session {
    let mut s = fresh();
    for f in 0..=last {
        show(&mut s, f);
        match f {
            0 => prompt(&mut s, 7, &Prompt::point(97.0, 123.0)).map(drop).unwrap(),
            2 => prompt(&mut s, 3, &Prompt::bounds([30.0, 110.0, 90.0, 170.0])).map(drop).unwrap(),
            _ => (),
        }
        track(&mut s, false);
    }
    s
}

fn rest(s: &mut Session, frames: impl IntoIterator<Item = usize>) -> Vec<Vec<Tracked>> {
    let step = |f| block_on(s.step(f, &frame(f), false, Control::default())).unwrap();
    frames.into_iter().map(step).collect()
}

#[test]
fn a_restored_session_goes_on_bit_by_bit() {
    let mut whole = tracked_to(4);
    let bytes = save(&mut whole);
    let mut restored = fresh();
    // What it held is forgotten.
    show(&mut restored, 0);
    prompt(&mut restored, 1, &Prompt::point(9.0, 9.0)).unwrap();
    restored.restore(&bytes).unwrap();
    assert_eq!((restored.frame(), restored.objects().collect::<Vec<_>>()), (None, vec![7, 3]));
    assert_eq!(save(&mut restored), bytes, "saved again it is the same file");
    assert_eq!(rest(&mut restored, 5..8), rest(&mut whole, 5..8));
    // Another click is added to those before, on the frame that they were made on.
    let click = |s: &mut Session| {
        show(s, 2);
        block_on(s.prompt(3, &Prompt::point(70.0, 130.0), true, Control::default())).unwrap()
    };
    assert_eq!(click(&mut restored), click(&mut whole));
}

/// A prompt of the present frame is in the file; saving changes nothing for the session itself.
#[test]
fn what_was_just_prompted_is_saved() {
    let run = |saved: bool| {
        let mut s = tracked_to(3);
        show(&mut s, 4);
        prompt(&mut s, 8, &Prompt::point(60.0, 140.0)).unwrap();
        if saved {
            let bytes = save(&mut s);
            s = fresh();
            s.restore(&bytes).unwrap();
        }
        rest(&mut s, 4..7)
    };
    let (saved, whole) = (run(true), run(false));
    assert_eq!(saved, whole);
    assert_eq!(saved[0].len(), 3);
}

#[test]
fn an_empty_session_is_saved_too() {
    let bytes = save(&mut fresh());
    let mut s = tracked_to(1);
    s.restore(&bytes).unwrap();
    assert!(s.objects().count() == 0 && rest(&mut s, 0..1)[0].is_empty());
}

/// The file with its header and tensors changed.
fn changed(bytes: &[u8], change: impl Fn(&mut Json, &mut Vec<(String, Vec<usize>, Vec<f32>)>)) -> Vec<u8> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let mut header: Json = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["session"]).unwrap();
    let io = Weights::from_bytes(bytes.to_vec()).unwrap();
    let tensor = |name: &String| (name.clone(), io.shape(name).unwrap().to_vec(), get(&io, name));
    let mut tensors = io.names().iter().map(tensor).collect();
    change(&mut header, &mut tensors);
    let view = |(name, shape, values): &'_ (String, Vec<usize>, Vec<f32>)| {
        (name.clone(), shape.clone(), bytemuck::cast_slice::<f32, u8>(values).to_vec())
    };
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views = owned.iter().map(|(n, shape, b)| (n.clone(), TensorView::new(Dtype::F32, shape.clone(), b).unwrap()));
    let metadata = HashMap::from([("session".to_string(), header.to_string())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

#[test]
fn files_of_others_are_refused() {
    let good = save(&mut tracked_to(2));
    let mut s = tracked_to(1);
    let mut refused = |bytes: &[u8], what: &str| {
        let e = s.restore(bytes).unwrap_err();
        assert!(e.kind() == ErrorKind::Input && e.to_string().contains(what), "{e:?} for {what}");
    };
    refused(b"", "not a session");
    refused(&good[..good.len() / 2], "not a session");
    refused(&std::fs::read(super::fixture("sam2_mini_video/clip.safetensors")).unwrap(), "not a session");
    let set = |at: &'static str, value: Json| changed(&good, move |h, _| *h.pointer_mut(at).unwrap() = value.clone());
    refused(&set("/version", json!(2)), "of version 2");
    refused(&set("/objects", json!({})), "not a session");
    refused(&set("/model", json!("0000000000000000")), "other weights");
    refused(&set("/side", json!(1024)), "image size of 1024");
    refused(&set("/rules/stride", json!(3)), "other options");
    refused(&set("/size", json!([usize::MAX, 2])), "frames of");
    refused(&set("/objects/1/id", json!(7)), "object 7 is there twice");
    refused(&set("/objects/0/tracked", json!([0, 2])), "frames of object 7");
    refused(&set("/objects/0/tracked", json!([1, 1_u64 << 40])), "frames of object 7");
    refused(&set("/objects/0/tracked", json!([1, 2, 3])), "not F32 [5,");
    refused(&set("/objects/0/directions", json!([{"first": 3, "last": 1, "reverse": false}])), "frames of object 7");
    refused(&set("/objects/0/prompts/0/points/0/0", json!(300.0)), "outside the picture");
    let first = |change: fn(&mut (String, Vec<usize>, Vec<f32>))| {
        changed(&good, move |_, tensors| change(tensors.iter_mut().find(|t| t.0 == "memories").unwrap()))
    };
    refused(&first(|t| t.2[5] = f32::NAN), "memories holds NaN");
    refused(&first(|t| t.1.swap(0, 1)), "memories is F32");
    refused(&first(|t| t.0.push('x')), "not a session");
    assert_eq!(changed(&good, |_, _| ()).len(), good.len());
    assert_eq!(rest(&mut s, 2..3)[0].len(), 1, "the session is as it was");

    let options = Options { mask_prompts: MaskPrompts::Official, ..Options::default() };
    let e = session(options, model(&[])).restore(&good).unwrap_err();
    assert!(e.to_string().contains("other options"), "{e}");
    let head = "sam_mask_decoder.pred_obj_score_head.layers.2.bias";
    let e = session(Options::default(), model(&[(head, vec![1.0])])).restore(&good).unwrap_err();
    assert!(e.to_string().contains("other weights"), "{e}");
}

/// A cleared frame is remembered as one that was tracked, and tracked anew; an object without prompts cannot be tracked.
#[test]
fn prompts_are_taken_back() {
    let mut s = tracked_to(2);
    assert!(!s.clear(7, 1) && !s.clear(5, 0), "nothing was prompted there");
    show(&mut s, 3);
    let correction = prompt(&mut s, 7, &Prompt::point(60.0, 140.0)).unwrap();
    assert!(s.clear(7, 3), "a prompt of the present frame");
    let tracked = |s: &mut Session| -> Result<Vec<Tracked>> { block_on(s.track(false, Control::default())) };
    let found = tracked(&mut s).unwrap();
    assert_ne!(found[0].low_res, correction.low_res);
    assert_eq!(found, rest(&mut tracked_to(2), 3..4)[0]);

    assert!(s.clear(3, 2) && !s.clear(3, 2));
    show(&mut s, 4);
    let e = tracked(&mut s).unwrap_err();
    assert!(e.kind() == ErrorKind::Argument && e.to_string().contains("object 3 has no prompt left"), "{e}");
    // Its memories are still there for a new prompt.
    prompt(&mut s, 3, &Prompt::point(60.0, 140.0)).unwrap();
    assert_eq!(tracked(&mut s).unwrap().len(), 2);
    let history = &s.objects[1].history;
    assert_eq!(history.prompted.iter().map(|(t, _)| *t).collect::<Vec<_>>(), [4]);
    assert_eq!(history.tracked.keys().copied().collect::<Vec<_>>(), [2, 3]);
    assert_eq!((s.objects[1].tracked.get(2), s.objects[1].tracked.get(3)), (None, Some(false)));

    // A mask prompt, too.
    let mask = Mask::from_logits(&[1.0; 256 * 256], 256, 256, 0.5).unwrap();
    block_on(s.prompt_mask(9, &mask, Control::default())).unwrap();
    assert!(s.clear(9, 4) && !s.clear(9, 4));
    assert_eq!(s.objects().collect::<Vec<_>>(), [7, 3, 9]);
}

#[test]
fn a_prompt_that_fails_leaves_nothing() {
    let mut s = tracked_to(0);
    let stop = std::sync::atomic::AtomicBool::new(true);
    let control = Control { cancel: Some(&stop), progress: None };
    let e = block_on(s.prompt(2, &Prompt::point(60.0, 140.0), false, control)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
    assert_eq!(s.objects().collect::<Vec<_>>(), [7]);
    let black = Picture::new(256, 256, vec![0; 256 * 256 * 3]).unwrap();
    let e = block_on(s.step(usize::MAX, &black, false, Control::default())).unwrap_err();
    assert!(e.to_string().contains("the last that can be"), "{e}");
    assert_eq!(rest(&mut s, 1..2)[0].len(), 1);
}
