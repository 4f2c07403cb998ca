//! Paths, names and their translation, and the messages of what is not there.

use super::{super::*, file};

const TABLE: Names = Names(&[
    ("trunk.blocks.*.norm.", "backbone.layers.*.layer_norm."),
    ("trunk.", "backbone."),
    ("points.*.weight", "point_embed[*]"),
    ("matrix", "first_copy"),
    ("matrix", "second_copy"),
]);

fn tensors(list: &[(&str, &[usize])]) -> Weights {
    let (mut entries, mut at) = (Vec::new(), 0);
    for (name, shape) in list {
        let end = at + shape.iter().product::<usize>();
        entries.push(format!(r#""{name}":{{"dtype":"U8","shape":{shape:?},"data_offsets":[{at},{end}]}}"#));
        at = end;
    }
    let mut bytes = file(&format!("{{{}}}", entries.join(",")), 0);
    bytes.extend((0..at).map(|i| i as u8));
    Weights::from_bytes(bytes).unwrap()
}

#[test]
fn a_path_is_walked() {
    let weights = tensors(&[("a.b.0.w", &[2]), ("a.b.1.w", &[3]), ("a.bc", &[1])]);
    let b = weights.at("a").at("b");
    assert_eq!(b.at(1).get("w", &[3]).unwrap().name(), "a.b.1.w");
    assert_eq!(b.names(), ["0.w", "1.w"]);
    assert_eq!(weights.at("a.b.0").shape("w"), Some(vec![2]));
    assert!(b.has("1.w") && !b.has("2.w") && !weights.at("a.b").has("c"));
}

#[test]
fn names_are_translated_both_ways() {
    let file_names = ["backbone.layers.12.layer_norm.weight", "backbone.pos", "first_copy", "other"];
    let ours = ["trunk.blocks.12.norm.weight", "trunk.pos", "matrix", "other"];
    for (file, ours) in file_names.iter().zip(ours) {
        assert_eq!(TABLE.to_file(ours)[0], Alias { name: (*file).to_owned(), row: None });
        assert_eq!(TABLE.to_ours(file, 1), [ours]);
    }
    assert_eq!(TABLE.to_ours("second_copy", 1), ["matrix"]);
    assert_eq!(TABLE.to_ours("point_embed", 3), ["points.0.weight", "points.1.weight", "points.2.weight"]);
    // An index is digits, and nothing else is one.
    assert_eq!(TABLE.to_file("trunk.blocks.x.norm.weight")[0].name, "backbone.blocks.x.norm.weight");
    assert_eq!(TABLE.to_file("points.99999999999999999999.weight")[0].name, "points.99999999999999999999.weight");
}

#[test]
fn a_row_of_a_tensor_is_a_tensor() {
    let weights = tensors(&[("point_embed", &[3, 4])]).renamed(TABLE);
    let row = weights.at("points").at(1).get("weight", &[1, 4]).unwrap();
    assert_eq!(row.bytes()[..], [4, 5, 6, 7]);
    assert!(weights.has("points.2.weight") && !weights.has("points.3.weight"));
    assert_eq!(weights.names(), ["points.0.weight", "points.1.weight", "points.2.weight"]);
    let message = weights.get("points.1.weight", &[4]).unwrap_err().to_string();
    assert!(message.contains("(row 1 of 'point_embed' in the file): expected (4), found (1, 4) U8"), "{message}");
}

#[test]
fn either_copy_of_a_doubled_tensor_will_do() {
    for copies in [&[("first_copy", &[2][..]), ("second_copy", &[2])][..], &[("second_copy", &[2])]] {
        let weights = tensors(copies).renamed(TABLE);
        assert_eq!(weights.get("matrix", &[2]).unwrap().bytes()[..], [0, 1]);
        assert_eq!(weights.names(), ["matrix"]);
    }
}

#[test]
fn a_missing_tensor_is_told_with_its_neighbours() {
    let weights =
        tensors(&[("backbone.layers.0.layer_norm.weight", &[2]), ("backbone.layers.0.layer_norm.bias", &[2])]);
    let error = weights.renamed(TABLE).at("trunk.blocks").at(0).get("norm.weigth", &[2]).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Weights);
    assert_eq!(
        error.to_string(),
        "embedded weights: no tensor 'trunk.blocks.0.norm.weigth' ('backbone.layers.0.layer_norm.weigth' in the file); \
         the nearest names are \"trunk.blocks.0.norm.weight\", \"trunk.blocks.0.norm.bias\""
    );
    let message = weights.get("zzz", &[]).unwrap_err().to_string();
    assert!(message.contains("none of its 2 names is like it"), "{message}");
}

#[test]
fn a_wrong_shape_is_told_with_both_names() {
    let weights = tensors(&[("backbone.pos", &[2, 3])]).renamed(TABLE);
    let message = weights.at("trunk").get("pos", &[3, 2]).unwrap_err().to_string();
    let expected =
        "embedded weights: tensor 'trunk.pos' ('backbone.pos' in the file): expected (3, 2), found (2, 3) U8";
    assert_eq!(message, expected);
}

#[test]
fn the_summary_counts() {
    let summary = tensors(&[("a", &[2, 3]), ("b", &[4])]).summary();
    assert_eq!((summary.parameters, summary.tensors.len(), summary.format), (10, 2, Format::SafeTensors));
    assert_eq!(summary.dtypes[&HostDType::U8], (2, 10));
}
