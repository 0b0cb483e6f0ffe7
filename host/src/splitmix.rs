//! SplitMix64 (Steele, Lea, Flood 2014): the same numbers for the same seed on every machine and in every version.

/// The number at `position` of the sequence that `seed` starts.
pub fn at(seed: u64, position: u64) -> u64 {
    let mut z = seed.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    /// The first numbers of the authors' C code for seed 1234567.
    #[test]
    fn it_is_the_published_generator() {
        let numbers: Vec<u64> = (0..3).map(|position| super::at(1_234_567, position)).collect();
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }
}
