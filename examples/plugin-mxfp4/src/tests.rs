use super::*;

#[test]
fn the_contract_is_kept() {
    qbench_sdk::conformance::check_scheme(Mxfp4::open, &Options::none()).assert_passed();
}

#[test]
fn blocks_by_hand() {
    // max 6: 2^floor(log2 6) = 4, less 2: scale 2^0. 2.5 is a tie, and 2 has the even mantissa; 5 is one of 4 and 6.
    let mut codes = [0; 4];
    assert_eq!(
        quantize_block(&[6.0, -0.5, 2.5, 5.0, 0.25, 0.75, -0.0], &mut codes),
        127
    );
    assert_eq!(codes, [0x97, 0x64, 0x20, 0x08]);
    // max 7.9: the same scale, and the largest saturates. 3.4 is nearer to 3.
    let mut codes = [0; 1];
    assert_eq!(quantize_block(&[7.9, 3.4], &mut codes), 127);
    assert_eq!(codes, [0x57]);
    // max 1: floor(log2) = 0, scale 2^-2, and 1 / 2^-2 = 4.
    let mut codes = [0; 1];
    assert_eq!(quantize_block(&[1.0, 0.0], &mut codes), 125);
    assert_eq!(codes, [0x06]);
    // Zeros have the smallest scale; what is no number has none.
    let mut codes = [0; 1];
    assert_eq!(quantize_block(&[0.0, 0.0], &mut codes), 0);
    assert_eq!(quantize_block(&[1.0, f32::INFINITY], &mut codes), SCALE_NAN);
    assert_eq!(codes, [0]);
}

/// Blocks of many magnitudes as ml_dtypes rounds them, written by `mxfp4.py`.
#[test]
fn blocks_are_those_of_ml_dtypes() {
    let mut blocks = 0;
    for line in include_str!("../fixtures/mxfp4.txt").lines() {
        let mut words = line.split(' ');
        let scale = u8::from_str_radix(words.next().unwrap(), 16).unwrap();
        let expected = words.next().unwrap();
        let values: Vec<f32> = words
            .map(|bits| f32::from_bits(u32::from_str_radix(bits, 16).unwrap()))
            .collect();
        let mut codes = vec![0; values.len().div_ceil(2)];
        assert_eq!(quantize_block(&values, &mut codes), scale, "{values:?}");
        let found: String = codes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected, "{values:?}");
        blocks += 1;
    }
    assert!(blocks > 100);
}

#[test]
fn tables_are_powers_and_e2m1() {
    let scales = scale_table();
    assert_eq!(
        (scales[127], scales[0], scales[254]),
        (1.0, 2.0_f32.powi(-127), 2.0_f32.powi(127))
    );
    assert!(scales[255].is_nan());
    assert_eq!(element_table()[13], -3.0);
}
