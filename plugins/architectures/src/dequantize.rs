use qbench_sdk::{AlignedBuffer, CallContext, DType, MatrixMut, Result, StoredTensor, narrow};

/// Bytes of the host that hold a part.
const PART_BYTES: usize = 64 << 20;

/// Turns a weight into dense values of `precision`, some rows at a time, for a device that memory of the host is copied to.
///
/// `take` gets the first row, the number of rows, and these as bytes, `[rows, cols]` of `precision`.
///
/// # Errors
/// What the scheme's decoder or `take` answers.
pub fn dequantize_in_parts(
    tensor: &dyn StoredTensor,
    precision: DType,
    threads: usize,
    take: impl FnMut(usize, usize, &[u8]) -> Result<()>,
) -> Result<()> {
    in_parts_of(PART_BYTES, tensor, precision, threads, take)
}

fn in_parts_of(
    part_bytes: usize,
    tensor: &dyn StoredTensor,
    precision: DType,
    threads: usize,
    mut take: impl FnMut(usize, usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let (rows, cols) = (tensor.layout().rows(), tensor.layout().cols());
    let row = (cols * precision.size()).max(1);
    let step = (part_bytes / row).clamp(1, rows.max(1));
    let mut stage = AlignedBuffer::zeroed(step * cols * precision.size());
    let mut values = vec![0.0; cols];
    for first in (0..rows).step_by(step) {
        let count = step.min(rows - first);
        let part = &mut stage[..count * cols * precision.size()];
        if let Some(dense) = tensor.dense() {
            for (index, bytes) in part.chunks_exact_mut(row).enumerate() {
                dense.read_row(first + index, &mut values)?;
                narrow(&values, precision, bytes)?;
            }
        } else {
            let mut to = MatrixMut::new(part, count, cols, precision)?;
            tensor.dequantize(first, &mut to, CallContext { threads })?;
        }
        take(first, count, part)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use qbench_sdk::{
        Layout, Matrix,
        layout::{Custom, Dense},
    };

    use super::*;

    const ROWS: usize = 5;
    const COLS: usize = 3;

    /// Element `c` of row `r` is `10 r + c`: stored densely, or told by its scheme.
    struct Counted {
        layout: Layout,
        bytes: Vec<u8>,
    }

    fn element(row: usize, col: usize) -> f32 {
        (10 * row + col) as f32
    }

    impl StoredTensor for Counted {
        fn layout(&self) -> &Layout {
            &self.layout
        }

        fn buffer(&self, _: usize) -> &[u8] {
            &self.bytes
        }

        fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
            for row in 0..out.rows() {
                let values: Vec<f32> = (0..COLS).map(|col| element(first_row + row, col)).collect();
                out.write_row(row, &values)?;
            }
            Ok(())
        }

        fn matmul(&self, _: Matrix<'_>, _: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
            unreachable!("weights are only decoded here")
        }
    }

    #[test]
    fn every_row_comes_once_and_in_its_place() {
        let values = (0..ROWS).flat_map(|row| (0..COLS).map(move |col| element(row, col)));
        let dense = Counted {
            layout: Layout::Dense(Dense {
                dtype: DType::F32,
                rows: ROWS,
                cols: COLS,
            }),
            bytes: values.clone().flat_map(f32::to_le_bytes).collect(),
        };
        let custom = Counted {
            layout: Layout::Custom(Custom {
                kind: "org.example.counted/1".to_owned(),
                rows: ROWS,
                cols: COLS,
                buffers: Vec::new(),
                parameters: serde_json::Value::Null,
            }),
            bytes: Vec::new(),
        };
        // Bits of a bf16 are the upper half of an f32's; these numbers need no more.
        let expected: Vec<u8> = values
            .flat_map(|value| value.to_le_bytes()[2..].to_vec())
            .collect();
        let row = COLS * DType::BF16.size();
        // Less than a row, two rows with one left over, and all.
        for (part_bytes, counts) in [
            (1, vec![1; 5]),
            (2 * row + 1, vec![2, 2, 1]),
            (100 * row, vec![5]),
        ] {
            for tensor in [&dense, &custom] {
                let (mut found, mut seen) = (Vec::new(), Vec::new());
                in_parts_of(part_bytes, tensor, DType::BF16, 1, |first, count, part| {
                    assert_eq!(found.len(), first * row);
                    found.extend_from_slice(part);
                    seen.push(count);
                    Ok(())
                })
                .unwrap();
                assert_eq!((found, seen), (expected.clone(), counts.clone()));
            }
        }
    }
}
