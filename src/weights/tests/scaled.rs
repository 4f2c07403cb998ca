//! 8-bit floats with factors beside them, as ComfyUI and Black Forest Labs write them.

use super::{super::*, file};

/// A safetensors file of tensors (name, type, shape, bytes).
fn weights(tensors: &[(&str, &str, &[usize], &[u8])]) -> Weights {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        entries.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{}]}}"#,
            data.len()
        ));
    }
    let mut bytes = file(&format!("{{{}}}", entries.join(",")), 0);
    bytes.extend(data);
    Weights::from_bytes(bytes).unwrap()
}

/// 1, -1.5, 448 and 2^-9, in two rows.
const W: (&str, &str, &[usize], &[u8]) = ("x.weight", "F8_E4M3", &[2, 2], &[0x38, 0xbc, 0x7e, 0x01]);

fn f32_bytes(x: f32) -> [u8; 4] {
    x.to_le_bytes()
}

#[test]
fn one_scale_under_both_names() {
    let plain = weights(&[W]).tensor("x.weight").unwrap();
    assert_eq!(plain.to_f32().unwrap(), [1.0, -1.5, 448.0, 1.0 / 512.0]);
    for (name, shape) in [("x.scale_weight", &[][..]), ("x.weight_scale", &[]), ("x.weight_scale", &[1])] {
        let scaled =
            weights(&[W, (name, "F32", shape, &f32_bytes(0.5)), ("x.input_scale", "F32", &[], &f32_bytes(9.0))]);
        let tensor = scaled.at("x").get("weight", &[2, 2]).unwrap();
        assert_eq!(tensor.to_f32().unwrap(), [0.5, -0.75, 224.0, 1.0 / 1024.0], "{name}");
        assert_eq!(tensor.rows(1..2).unwrap().to_f32().unwrap(), [224.0, 1.0 / 1024.0]);
        let mut two = [0.0; 2];
        tensor.read_f32(1, &mut two).unwrap();
        assert_eq!(two, [-0.75, 224.0]);
        // f16 holds any fp8, but not its product with any scale.
        assert_eq!((plain.device_dtype(), tensor.device_dtype()), (crate::shape::DType::F16, crate::shape::DType::F32));
    }
}

#[test]
fn one_scale_for_each_row() {
    let scales = [f32_bytes(2.0), f32_bytes(0.25)].concat();
    for shape in [&[2][..], &[2, 1]] {
        let tensor = weights(&[W, ("x.weight_scale", "F32", shape, &scales)]).tensor("x.weight").unwrap();
        assert_eq!(tensor.to_f32().unwrap(), [2.0, -3.0, 112.0, 1.0 / 2048.0]);
        assert_eq!(tensor.rows(1..2).unwrap().to_f32().unwrap(), [112.0, 1.0 / 2048.0]);
        let mut two = [0.0; 2];
        tensor.read_f32(1, &mut two).unwrap();
        assert_eq!(two, [-3.0, 112.0]);
    }
}

#[test]
fn what_is_beside_must_fit() {
    let refused = |beside: &[(&str, &str, &[usize], &[u8])]| {
        weights(&[&[W], beside].concat()).tensor("x.weight").unwrap_err().to_string()
    };
    let one: &[u8] = &f32_bytes(0.5);
    let both = refused(&[("x.scale_weight", "F32", &[], one), ("x.weight_scale", "F32", &[], one)]);
    assert!(both.contains("both a scale_weight and a weight_scale"), "{both}");
    let three = refused(&[("x.weight_scale", "F32", &[3], &[0; 12])]);
    assert!(three.contains("'x.weight_scale' is (3)"), "{three}");
    let columns = refused(&[("x.weight_scale", "F32", &[1, 2], &[0; 8])]);
    assert!(columns.contains("'x.weight_scale' is (1, 2)"), "{columns}");
    let blocks = refused(&[("x.weight_scale_inv", "F32", &[1, 1], one)]);
    assert!(blocks.contains("scales of blocks (1, 1)"), "{blocks}");
    let infinite = refused(&[("x.weight_scale", "F32", &[], &f32_bytes(f32::INFINITY))]);
    assert!(infinite.contains("its scale 0 is inf"), "{infinite}");
    let code = refused(&[("x.weight_scale", "U8", &[], &[1])]);
    assert!(code.contains("quantised?"), "{code}");

    let comfy = |json: &'static str| ("x.comfy_quant", "U8", json.len(), json.as_bytes());
    let (name, dtype, len, json) = comfy(r#"{"format": "nvfp4"}"#);
    let other = refused(&[(name, dtype, &[len], json)]);
    assert!(other.contains("comfy_quant says \"nvfp4\""), "{other}");
    let (name, dtype, len, json) = comfy("{");
    assert!(refused(&[(name, dtype, &[len], json)]).contains("comfy_quant"));
    let (name, dtype, len, json) = comfy(r#"{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}"#);
    let fine = weights(&[W, (name, dtype, &[len], json), ("x.weight_scale", "F32", &[], one)]);
    assert_eq!(fine.tensor("x.weight").unwrap().to_f32().unwrap()[0], 0.5);
}

/// Scales beside anything but fp8 belong to somebody else's format, whose integers are refused when they are read.
#[test]
fn other_types_are_left_alone() {
    let f32s = [f32_bytes(1.0), f32_bytes(2.0)].concat();
    let w = weights(&[("x.weight", "F32", &[2], &f32s), ("x.weight_scale", "F32", &[], &f32_bytes(0.5))]);
    assert_eq!(w.tensor("x.weight").unwrap().to_f32().unwrap(), [1.0, 2.0]);
}

#[test]
fn nan_is_named() {
    let w = weights(&[("x.weight", "F8_E4M3", &[3], &[0, 0x38, 0xff])]);
    let error = w.tensor("x.weight").unwrap().to_f32().unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Numeric);
    assert!(error.to_string().contains("'x.weight': element 2 is NaN (code 0xff)"), "{error}");
}
