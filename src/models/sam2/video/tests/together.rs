//! Objects that go through the device together, though they recall different numbers of memories and pointers.

use super::{against, block_on, frame, model, prompt, session_on, show, track};
use crate::{
    graph::Control,
    models::sam2::{
        prompt::Prompt,
        video::{Options, Session, Tracked},
    },
};

fn exact(max_binding: Option<u64>) -> Session {
    session_on(max_binding, Options { bf16: false, ..Options::default() }, model(&[]))
}

/// The objects of these numbers, each with another prompt, on one of the first frames, up to a frame: what is found on
/// every frame.
fn followed(s: &mut Session, ids: impl Iterator<Item = u32> + Clone, last: usize) -> Vec<Vec<Tracked>> {
    let of_frame = |f: usize| {
        show(s, f);
        for id in ids.clone().filter(|id| *id as usize % 4 == f) {
            let (x, y) = (40.0 + 11.0 * id as f32, 210.0 - 9.0 * id as f32);
            let asked = if id % 3 == 0 { Prompt::bounds([x, y, x + 30.0, y + 40.0]) } else { Prompt::point(x, y) };
            prompt(s, id, &asked).unwrap();
        }
        track(s, false)
    };
    (0..=last).map(of_frame).collect()
}

/// With their keys in one piece, and where a binding holds those of two memories, half the inner values of an MLP, and four masks.
#[test]
fn each_is_as_if_it_were_alone() {
    let ids = [0, 3, 6, 5];
    let alone = ids.map(|id| followed(&mut exact(None), [id].into_iter(), 6));
    for binding in [None, Some(1 << 20)] {
        let together = followed(&mut exact(binding), ids.into_iter(), 6);
        for (id, alone) in ids.iter().zip(&alone) {
            for (f, (alone, together)) in alone.iter().zip(&together).enumerate() {
                let together = together.iter().find(|t| t.object == *id);
                assert_eq!(together.is_some(), alone.len() == 1, "frame {f}");
                let (Some(together), Some(alone)) = (together, alone.first()) else { continue };
                // Batches of another size may take other variants of a kernel.
                let (nmse, other) = against(together, &alone.low_res);
                assert!(nmse <= 1e-10 && other == 0, "object {id} on frame {f}: {nmse:.1e}, {other} pixels");
            }
        }
    }
}

/// Keys of one object that no binding holds: of 18 prompted frames and 6 others.
#[test]
fn an_object_may_be_prompted_on_many_frames() {
    let follow = |binding| {
        let mut s = exact(binding);
        for f in 0..26 {
            block_on(s.set_frame(f, &frame(f % 8), Control::default())).unwrap();
            if f < 18 {
                prompt(&mut s, 1, &Prompt::point(100.0 + f as f32, 120.0)).unwrap();
            } else {
                track(&mut s, false);
            }
        }
        track(&mut s, false).remove(0)
    };
    let (nmse, other) = against(&follow(Some(1 << 20)), &follow(None).low_res);
    assert!(nmse <= 1e-10 && other == 0, "{nmse:.1e}, {other} pixels");
}

/// The dispatches of a frame do not grow with the number of objects, whenever they were prompted, nor where a binding does not
/// hold the keys of all of them. One object takes a few more, as its products are split to fill the device. Submits follow
/// the work, which is cut in slices.
#[test]
fn many_cost_as_many_dispatches_as_few() {
    let count = |objects: u32, binding| {
        let mut s = exact(binding);
        followed(&mut s, 0..objects, 4);
        // A frame for which the bank did not have to grow.
        let counts = (5..8).map(|f| {
            let (slots, uses) = (s.bank.tensor.shape()[0], s.graphs.uses());
            let found = block_on(s.step(f, &frame(f), false, Control::default())).unwrap();
            assert_eq!(found.len(), objects as usize);
            assert_eq!(s.graphs.uses() - uses, 2, "{objects} objects go through the device in sets");
            (s.bank.tensor.shape()[0] == slots).then(|| s.graphs.dispatches())
        });
        counts.flatten().next().unwrap()
    };
    // 4 MiB hold the keys of four memories of 16 objects.
    let [whole, cut] = [None, Some(4 << 20)].map(|binding| {
        let [one, three, many] = [1, 3, 16].map(|objects| count(objects, binding));
        assert!(one.iter().zip(many).all(|(one, many)| 0 < many && many <= *one), "{many:?} after {one:?}");
        assert_eq!(three, many);
        many
    });
    assert!(cut[0] > whole[0], "nothing was cut");
}
