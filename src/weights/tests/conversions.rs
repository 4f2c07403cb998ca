//! Element types to f32 and f16, and the packed forms.

use super::super::*;
use crate::quant;
use half::{bf16, f16};

fn tensor(dtype: HostDType, bytes: Vec<u8>) -> HostTensor {
    let count = bytes.len() / dtype.size();
    HostTensor::new("t", &[count], dtype, bytes).unwrap()
}

#[test]
fn floats_become_f32() {
    let values = [0.0f32, -0.0, 1.0, -1.5, 448.0, 0.015625];
    let bytes = |f: &dyn Fn(f32) -> Vec<u8>| values.iter().flat_map(|v| f(*v)).collect::<Vec<u8>>();
    for (dtype, bytes) in [
        (HostDType::F32, bytes(&|v| v.to_le_bytes().to_vec())),
        (HostDType::F64, bytes(&|v| f64::from(v).to_le_bytes().to_vec())),
        (HostDType::F16, bytes(&|v| f16::from_f32(v).to_le_bytes().to_vec())),
        (HostDType::BF16, bytes(&|v| bf16::from_f32(v).to_le_bytes().to_vec())),
        (HostDType::F8E4M3, vec![0x00, 0x80, 0x38, 0xbc, 0x7e, 0x08]),
        (HostDType::F8E5M2, vec![0x00, 0x80, 0x3c, 0xbe, 0x5f, 0x24]),
    ] {
        let got = tensor(dtype, bytes).to_f32().unwrap();
        assert_eq!(got.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), values.map(f32::to_bits), "{dtype}");
    }
}

#[test]
fn every_e4m3_code() {
    let code = |code: u8| tensor(HostDType::F8E4M3, vec![code]).to_f32();
    let all: Vec<f32> = (0..0x7f).map(|c| code(c).unwrap()[0]).collect();
    // The least subnormal, the greatest, the least normal, the greatest (OCP specification, table 2).
    assert_eq!([all[1], all[7], all[8], all[0x7e]], [2f32.powi(-9), 0.875 * 2f32.powi(-6), 2f32.powi(-6), 448.0]);
    assert!(all.is_sorted_by(|a, b| a < b));
    for (c, value) in (0x80..0xff).zip(&all) {
        assert_eq!(code(c).unwrap()[0].to_bits(), (-value).to_bits(), "{c:#x}");
    }
    for nan in [0x7f, 0xff] {
        assert_eq!(code(nan).unwrap_err().kind(), crate::ErrorKind::Numeric, "{nan:#x}");
    }
}

#[test]
fn integers_are_no_weights() {
    for dtype in HostDType::ALL.into_iter().filter(|d| !d.is_float()) {
        let message = tensor(dtype, vec![0; 8]).to_f32().unwrap_err().to_string();
        assert!(message.contains("quantised?"), "{dtype}: {message}");
    }
}

#[test]
fn unaligned_bytes_are_read() {
    let bytes = Bytes::from([&[9u8][..], bytemuck::cast_slice(&[1.0f32, 2.0])].concat());
    let tensor = HostTensor::new("t", &[2], HostDType::F32, bytes.slice(1..9).unwrap()).unwrap();
    assert_eq!(tensor.to_f32().unwrap(), [1.0, 2.0]);
}

#[test]
fn staging_covers_all_elements_once() {
    let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let tensor = tensor(HostDType::F32, bytemuck::cast_slice(&values).to_vec());
    for size in [1, 7, 999, 1000, 5000] {
        let mut seen = Vec::new();
        tensor
            .for_each_f32(&mut vec![0.0; size], |start, part| {
                assert_eq!(start, seen.len());
                seen.extend_from_slice(part);
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, values, "staging of {size}");
    }
    assert!(tensor.for_each_f32(&mut [], |_, _| Ok(())).is_err());
    assert!(tensor.read_f32(999, &mut [0.0; 2]).is_err());
    assert!(tensor.read_f32(usize::MAX, &mut [0.0; 2]).is_err());
}

#[test]
fn f16_bits_and_what_they_cannot_hold() {
    let values: Vec<f32> = (0..600).map(|i| (i as f32 - 300.0) * 0.37).collect();
    let t = tensor(HostDType::F32, bytemuck::cast_slice(&values).to_vec());
    let mut out = vec![0; 500];
    t.read_f16(100, &mut out).unwrap();
    assert!(out.iter().zip(&values[100..]).all(|(bits, v)| *bits == f16::from_f32(*v).to_bits()));
    // 65519 rounds to 65504; 65520 to infinity.
    let edge = |v: f32| tensor(HostDType::F32, v.to_le_bytes().to_vec()).read_f16(0, &mut [0]);
    edge(65519.0).unwrap();
    for bad in [65520.0, f32::NAN, f32::NEG_INFINITY] {
        assert_eq!(edge(bad).unwrap_err().kind(), crate::ErrorKind::Numeric);
    }
}

#[test]
fn packing_checks_its_values() {
    assert_eq!(quantize_f16(&[1.0, -2.0, 0.5]).unwrap(), [0xc000_3c00, 0x3800]);
    assert!(quantize_f16(&[1.0, 70000.0]).unwrap_err().to_string().contains("element 1 is 70000"));
    for bad in [f32::NAN, f32::INFINITY, 1e7] {
        assert_eq!(quantize_q8(1, 32, &[bad; 32]).unwrap_err().kind(), crate::ErrorKind::Numeric, "{bad}");
    }
    assert_eq!(quantize_q8(2, 16, &[0.0; 32]).unwrap_err().kind(), crate::ErrorKind::Shape);
    assert_eq!(quantize_q8(2, 32, &[0.0; 32]).unwrap_err().kind(), crate::ErrorKind::Shape);
    // The largest scales: 65504 steps of 127, of 8.
    quantize_q8(1, 32, &[8e6; 32]).unwrap();
    assert!(quantize_q4(1, 32, &[-6e5; 32]).unwrap_err().to_string().contains("element 0 is -600000"));
    assert_eq!(quant::unpack_q4(&quantize_q4(1, 32, &[-5e5; 32]).unwrap(), 32), [-499_968.0; 32]);
    assert_eq!(quantize_q4(2, 16, &[0.0; 32]).unwrap_err().kind(), crate::ErrorKind::Shape);
}

/// Blocks that ggml's own packing (the Python package `gguf` 0.19, `gguf.quants`) was run on: the input is
/// `sin(i * 0.37) * (1 + i % 5)` in f32, i = 0..96; its first 34 bytes, and the scales of the others.
#[test]
fn q8_is_ggmls() {
    let values: Vec<f32> = (0..96).map(|i| ((f64::from(i) * 0.37).sin() * f64::from(1 + i % 5)) as f32).collect();
    let words = quantize_q8(1, 96, &values).unwrap();
    let quants: Vec<i8> = words[..24].iter().flat_map(|w| w.to_le_bytes().map(|b| b as i8)).collect();
    assert_eq!(quants[..32], GGML_QUANTS);
    assert_eq!([words[24] as u16, (words[24] >> 16) as u16, words[25] as u16], GGML_SCALES);
    assert_eq!(words[25] >> 16, 0);
    for (v, back) in values.iter().zip(quant::unpack_q8(&words, 96)) {
        assert!((v - back).abs() <= 5.0 / 127.0 * 0.57, "{v} became {back}");
    }
}
const GGML_QUANTS: [i8; 32] = [
    0, 18, 52, 91, 127, 25, 41, 40, 18, -24, -14, -41, -74, -102, -114, -17, -18, 1, 38, 87, 23, 51, 73, 81, 66, 4,
    -10, -41, -82, -123, -25, -45,
];
const GGML_SCALES: [u16; 3] = [0x2905, 0x28d3, 0x2908];
