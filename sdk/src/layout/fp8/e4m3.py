"""Writes e4m3.txt: what ml_dtypes says of e4m3 numbers. Made with ml_dtypes 0.6.0 and numpy 2.

    pip install ml_dtypes numpy && python e4m3.py > e4m3.txt

`decode` lines hold the f32 bits of each code; `encode` lines the code of some f32 bits: numbers of every magnitude,
each code, the middle of each two neighbours, and the f32 numbers beside these. Beyond 448 ml_dtypes gives NaN where
qbench saturates, so that such numbers are left out.
"""

import ml_dtypes
import numpy as np

codes = np.arange(256, dtype=np.uint8)
values = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
for code, value in zip(codes, values):
    print(f"decode {value.view(np.uint32):08x} {code:02x}")

finite = np.sort(values[np.isfinite(values) & (values >= 0)])
middles = (finite[1:] + finite[:-1]) / np.float32(2)
points = np.concatenate([finite, middles])
near = np.concatenate([points, np.nextafter(points, np.float32(0)), np.nextafter(points, np.float32(1e9))])
spread = np.exp(np.random.default_rng(8).uniform(np.log(1e-6), np.log(448), 400)).astype(np.float32)
tiny = np.array([1e-45, 1e-38, 1e-10], dtype=np.float32)
inputs = np.concatenate([near, spread, tiny])
inputs = np.unique(inputs[inputs <= 448])
inputs = np.concatenate([inputs, -inputs])
for value, code in zip(inputs, inputs.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)):
    print(f"encode {value.view(np.uint32):08x} {code:02x}")
