//! The kit on schemes that keep the contract, and on schemes that break it in one way each.

use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::{
    CallContext, DType, Error, Layout, Matrix, MatrixMut, SchemeInfo,
    layout::{self, BufferSpec, Custom},
};

#[test]
fn any_block_codebook_conforms() {
    for text in [
        "block=32,order=low,blocks=row,scale=f32",
        "block=128,order=high,blocks=flat,scale=coded,seed=5",
        "block=33,order=low,blocks=flat,scale=f32,seed=9",
    ] {
        let report = check_scheme(RandomCodebook::open, &Options::parse(text).unwrap());
        report.assert_passed();
        assert!(
            report
                .findings
                .iter()
                .all(|finding| finding.verdict != Verdict::Warn),
            "{text}\n{report}"
        );
    }
}

/// A custom layout of f32 values, and one way to break the contract.
struct Broken(&'static str);

static COUNTER: AtomicU8 = AtomicU8::new(0);

impl QuantScheme for Broken {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: if self.0 == "describes-itself" {
                "no id"
            } else {
                "broken"
            }
            .to_owned(),
            summary: "broken in one way".to_owned(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        if !source.is_float() {
            return Err(Error::Unsupported("integers".to_owned()));
        }
        let elements = if self.0 == "errors-not-panics" {
            rows.checked_mul(cols).unwrap()
        } else {
            rows.saturating_mul(cols)
        };
        if elements > 1 << 40 {
            return Err(Error::Unsupported("so many elements".to_owned()));
        }
        let rows = if self.0 == "layout-is-pure" && rows == 5 {
            4
        } else {
            rows
        };
        Ok(Layout::Custom(Custom {
            kind: "org.example.broken/1".to_owned(),
            rows,
            cols,
            buffers: vec![BufferSpec::new("values", elements, DType::F32)],
            parameters: serde_json::Value::Null,
        }))
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        layout: &Layout,
        buffers: &mut [&mut [u8]],
        context: CallContext,
    ) -> Result<()> {
        layout.check_buffers(buffers.iter().map(|buffer| buffer.len()))?;
        let mut values = vec![0.0; source.cols()];
        let row_bytes = source.cols() * 4;
        for (row, bytes) in buffers[0].chunks_exact_mut(row_bytes.max(1)).enumerate() {
            source.read_row(row, &mut values)?;
            match self.0 {
                "quantize-deterministic" => values[0] = f32::from(COUNTER.fetch_add(1, Ordering::Relaxed)),
                "threads-1-equals-n" => values[0] += context.threads as f32,
                "reconstruction" => values.iter_mut().for_each(|value| *value = -*value),
                "zeros-and-extremes" => values.iter_mut().for_each(|value| *value /= value.abs()),
                "odd-shapes" if source.cols() % 2 == 1 => values.reverse(),
                _ => {}
            }
            if self.0 == "strided-source" {
                let start = row * row_bytes;
                bytes.copy_from_slice(&source.data()[start..start + row_bytes]);
            } else {
                crate::narrow(&values, DType::F32, bytes)?;
            }
        }
        if self.0 == "buffers-not-overrun" {
            // SAFETY: none by the contract; the kit's guard lies there, which is what this test is about.
            unsafe { buffers[0].as_mut_ptr().add(buffers[0].len()).write(1) };
        }
        Ok(())
    }

    fn dequantize(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        first_row: usize,
        out: &mut MatrixMut<'_>,
        _context: CallContext,
    ) -> Result<()> {
        let dense = Layout::Dense(layout::Dense {
            rows: layout.rows(),
            cols: layout.cols(),
            dtype: DType::F32,
        });
        let first_row = if self.0 == "row-ranges" { 0 } else { first_row };
        layout.check_buffers(buffers.iter().map(|buffer| buffer.len()))?;
        layout::decode(&dense, buffers, first_row, out)?;
        if self.0 == "rounds-once" && out.dtype() == DType::F16 {
            out.row(0)[0] ^= 1;
        }
        Ok(())
    }

    fn matmul(
        &self,
        _layout: &Layout,
        _buffers: &[&[u8]],
        _input: Matrix<'_>,
        output: &mut MatrixMut<'_>,
        _context: CallContext,
    ) -> Result<()> {
        if self.0 != "matmul-equals-dequantized" {
            return Err(Error::Unsupported("a product".to_owned()));
        }
        (0..output.rows()).try_for_each(|row| output.write_row(row, &vec![1.0; output.cols()]))
    }
}

#[test]
fn each_broken_promise_is_found_by_its_case() {
    let whole = check_scheme(
        |options| options.finish(&[]).map(|()| Broken("")),
        &Options::none(),
    );
    whole.assert_passed();
    for case in [
        "describes-itself",
        "layout-is-pure",
        "buffers-not-overrun",
        "quantize-deterministic",
        "threads-1-equals-n",
        "strided-source",
        "row-ranges",
        "rounds-once",
        "odd-shapes",
        "reconstruction",
        "zeros-and-extremes",
        "matmul-equals-dequantized",
        "errors-not-panics",
    ] {
        let report = check_scheme(
            move |options| options.finish(&[]).map(|()| Broken(case)),
            &Options::none(),
        );
        let finding = report
            .findings
            .iter()
            .find(|finding| finding.case == case)
            .unwrap();
        assert_eq!(finding.verdict, Verdict::Fail, "{case}\n{report}");
        assert!(!finding.detail.is_empty());
    }
    let report = check_scheme(|_| Ok(Broken("")), &Options::none());
    assert!(
        report.to_string().contains("an unknown option is ignored"),
        "{report}"
    );
}

#[test]
#[should_panic(expected = "the contract is broken")]
fn a_broken_contract_ends_a_test() {
    check_scheme(
        |options| options.finish(&[]).map(|()| Broken("row-ranges")),
        &Options::none(),
    )
    .assert_passed();
}
