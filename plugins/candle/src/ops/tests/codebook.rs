//! Products of codebook weights.

use super::{MemoryTensor, PRECISIONS, Random, activations, assert_close, ops, product, read, rounding};
use qbench_architectures::Ops;
use qbench_sdk::{
    AlignedBuffer, CallContext, DType, Layout, MatrixMut, StoredTensor,
    layout::{BlockCodebook, Blocks, NibbleOrder, Scale},
    widen,
};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_of_codebook_weights() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(5);
        for (rows, cols, block, blocks, order, scale, bits) in [
            (128, 320, 64, Blocks::Flat, NibbleOrder::HighFirst, Scale::F32, 4),
            (
                37,
                100,
                64,
                Blocks::Flat,
                NibbleOrder::HighFirst,
                Scale::Coded { block: 256 },
                4,
            ),
            (30, 70, 32, Blocks::PerRow, NibbleOrder::LowFirst, Scale::F32, 4),
            (16, 64, 32, Blocks::PerRow, NibbleOrder::LowFirst, Scale::F32, 8),
        ] {
            let layout = Layout::BlockCodebook(BlockCodebook {
                rows,
                cols,
                bits,
                order,
                blocks,
                block,
                scale,
            });
            let buffers = layout
                .buffers()
                .iter()
                .map(|spec| match spec.dtype {
                    DType::F32 => {
                        let values = random.values(spec.bytes / 4, DType::F32);
                        AlignedBuffer::from_bytes(bytemuck::cast_slice(&values))
                    }
                    _ => AlignedBuffer::from_bytes(
                        &(0..spec.bytes).map(|_| random.next() as u8).collect::<Vec<_>>(),
                    ),
                })
                .collect();
            let what = format!("{precision} {layout:?}");
            let tensor = MemoryTensor { layout, buffers };
            let mut bytes = vec![0; rows * cols * precision.size()];
            tensor
                .dequantize(
                    0,
                    &mut MatrixMut::new(&mut bytes, rows, cols, precision).unwrap(),
                    CallContext::single_threaded(),
                )
                .unwrap();
            let mut weight = vec![0.0; rows * cols];
            widen(&bytes, precision, &mut weight).unwrap();
            let linear = ops.load_linear(Box::new(tensor), None).unwrap().value;
            for tokens in [1, 3, 17, 70, 300, 800] {
                let x = random.values(tokens * cols, precision);
                let out = ops.linear(&activations(&ops, &x, cols), &linear).unwrap();
                assert_close(
                    &read(&ops, &out),
                    &product(&x, &weight, cols, None),
                    // The few-token kernel rounds the table where the reference rounds table times scale.
                    2.0 * rounding(precision) + 2e-6,
                    &format!("{what}, {tokens} tokens"),
                );
            }
        }
    }
}
