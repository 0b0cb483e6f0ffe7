//! `standard`, and what all schemes refuse.

use qbench_modes::{FourBit, Int8, Standard};
use qbench_sdk::{CallContext, DType, Matrix, Options, QuantScheme};

use crate::golden::Stored;

fn schemes() -> [Box<dyn QuantScheme>; 5] {
    let none = Options::none();
    [
        Box::new(Standard::open(&none).unwrap()),
        Box::new(Int8::open(&none).unwrap()),
        Box::new(FourBit::open_nf4(&none).unwrap()),
        Box::new(FourBit::open_fp4(&none).unwrap()),
        Box::new(FourBit::open_nf4_double(&none).unwrap()),
    ]
}

#[test]
fn the_names_are_those_of_the_modes() {
    let names = schemes().map(|scheme| (scheme.info().id, scheme.info().aliases.join(" ")));
    let names: Vec<(&str, &str)> = names
        .iter()
        .map(|(id, aliases)| (&id[..], &aliases[..]))
        .collect();
    assert_eq!(
        names,
        [
            ("standard", ""),
            ("8bit", "int8"),
            ("4bit_nf4", "nf4"),
            ("4bit_fp4", "fp4"),
            ("4bit_nf4_double", "nf4_double"),
        ]
    );
}

#[test]
fn standard_copies_rows_without_the_gaps_between_them() {
    let data: Vec<u8> = (0..20).collect();
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I8] {
        let source = Matrix::with_stride(&data, 2, 2, 10, dtype).unwrap();
        let layout = Standard.layout(2, 2, dtype).unwrap();
        let mut weight = vec![0; layout.bytes()];
        Standard
            .quantize(
                source,
                &layout,
                &mut [&mut weight],
                CallContext::single_threaded(),
            )
            .unwrap();
        let row = 2 * dtype.size();
        assert_eq!(weight, [&data[..row], &data[10..10 + row]].concat());
    }
    let empty = Stored::quantize(&Standard, &[], 3, 0, DType::F32, 1);
    assert!(empty.buffer("weight").is_empty());
    assert!(Standard::open(&Options::parse("block=64").unwrap()).is_err());
}

#[test]
fn what_has_no_scale_is_refused() {
    for scheme in &schemes()[1..] {
        for (rows, cols, dtype) in [
            (0, 4, DType::F32),
            (4, 0, DType::F32),
            (4, 4, DType::I8),
            (4, 4, DType::U8),
        ] {
            let error = scheme.layout(rows, cols, dtype).unwrap_err().to_string();
            assert!(error.contains(&scheme.info().id), "{error}");
        }
    }
}

#[test]
fn a_layout_or_buffers_of_another_matrix_are_refused() {
    let data = [0; 64];
    for scheme in schemes() {
        let source = Matrix::new(&data, 4, 4, DType::F32).unwrap();
        let layout = scheme.layout(4, 4, DType::F32).unwrap();
        let sizes: Vec<usize> = layout.buffers().iter().map(|buffer| buffer.bytes).collect();
        let quantize = |layout: &_, sizes: &[usize]| {
            let mut buffers: Vec<Vec<u8>> = sizes.iter().map(|size| vec![0; *size]).collect();
            let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
            scheme.quantize(source, layout, &mut slices, CallContext::single_threaded())
        };
        quantize(&layout, &sizes).unwrap();
        assert!(quantize(&scheme.layout(4, 5, DType::F32).unwrap(), &sizes).is_err());
        assert!(quantize(&layout, &sizes[1..]).is_err());
        let mut longer = sizes.clone();
        longer[0] += 1;
        assert!(quantize(&layout, &longer).is_err());
    }
}
