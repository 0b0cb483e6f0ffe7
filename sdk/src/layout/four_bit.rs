//! The two 4-bit tables of bitsandbytes, as bit patterns: decimal literals round differently on the way through f64.

/// Sixteen values and how a number between -1 and 1 finds its own.
///
/// The buckets are the intervals between ascending bounds, a bound belonging to the bucket below it. Each bound is the
/// middle of two neighbouring values, as f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Value of each code.
    pub values: [f32; 16],
    /// Upper ends of the buckets 0 to 14.
    pub bounds: [f32; 15],
    /// Code of each bucket.
    pub codes: [u8; 16],
}

const fn floats<const N: usize>(bits: [u32; N]) -> [f32; N] {
    let mut values = [0.0; N];
    let mut index = 0;
    while index < N {
        values[index] = f32::from_bits(bits[index]);
        index += 1;
    }
    values
}

/// NormalFloat4 (Dettmers et al. 2023, QLoRA): quantiles of a normal distribution, with an exact zero.
pub static NF4: Table = Table {
    values: floats([
        0xbf80_0000,
        0xbf32_39b1,
        0xbf06_6b30,
        0xbeca_32a0,
        0xbe91_a24d,
        0xbe3d_353f,
        0xbdba_7871,
        0x0000_0000,
        0x3da2_faff,
        0x3e24_cae3,
        0x3e7c_04dd,
        0x3ead_033a,
        0x3ee1_a4b8,
        0x3f10_07ab,
        0x3f39_13b3,
        0x3f80_0000,
    ]),
    bounds: floats([
        0xbf59_1cd8,
        0xbf1c_5270,
        0xbeeb_8480,
        0xbead_ea76,
        0xbe70_3cec,
        0xbe0d_38bc,
        0xbd3a_7871,
        0x3d22_faff,
        0x3df6_4862,
        0x3e50_67e0,
        0x3e95_82d4,
        0x3ec7_53f9,
        0x3f00_6d04,
        0x3f24_8daf,
        0x3f5c_89da,
    ]),
    codes: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
};

/// A sign and {0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4}. Code 8, the negative zero of other formats, is +0 here, and what
/// the smallest positive numbers become.
pub static FP4: Table = Table {
    values: floats([
        0x0000_0000,
        0x3baa_aaab,
        0x3f2a_aaab,
        0x3f80_0000,
        0x3eaa_aaab,
        0x3f00_0000,
        0x3e2a_aaab,
        0x3e80_0000,
        0x0000_0000,
        0xbbaa_aaab,
        0xbf2a_aaab,
        0xbf80_0000,
        0xbeaa_aaab,
        0xbf00_0000,
        0xbe2a_aaab,
        0xbe80_0000,
    ]),
    bounds: floats([
        0xbf55_5556,
        0xbf15_5556,
        0xbed5_5556,
        0xbe95_5556,
        0xbe55_5556,
        0xbdb0_0000,
        0xbb2a_aaab,
        0x0000_0000,
        0x3b2a_aaab,
        0x3db0_0000,
        0x3e55_5556,
        0x3e95_5556,
        0x3ed5_5556,
        0x3f15_5556,
        0x3f55_5556,
    ]),
    codes: [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_middles_of_neighbouring_values() {
        for table in [&NF4, &FP4] {
            for (bucket, bound) in table.bounds.iter().enumerate() {
                let value = |bucket: usize| table.values[usize::from(table.codes[bucket])];
                assert_eq!(
                    bound.to_bits(),
                    value(bucket).midpoint(value(bucket + 1)).to_bits(),
                    "{bucket}"
                );
            }
        }
    }

    #[test]
    fn fp4_values_are_twelfths() {
        let twelfths = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
        for (code, twelfths) in twelfths.iter().enumerate() {
            assert_eq!(FP4.values[code], twelfths / 12.0_f32);
            assert_eq!(FP4.values[code + 8], -twelfths / 12.0_f32);
        }
    }
}
