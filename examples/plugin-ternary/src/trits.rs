//! Five ternary digits a byte: 3⁵ = 243 ≤ 256.

/// Digits a byte.
pub(crate) const A_BYTE: usize = 5;

/// The five weights of each byte.
static WEIGHTS: [[f32; A_BYTE]; 243] = {
    let mut all = [[0.0; A_BYTE]; 243];
    let mut byte = 0;
    while byte < 243 {
        let (mut rest, mut place) = (byte, 0);
        while place < A_BYTE {
            all[byte][place] = (rest % 3) as f32 - 1.0;
            rest /= 3;
            place += 1;
        }
        byte += 1;
    }
    all
};

/// The nearest of -1, 0 and 1, ties to even; 0 for NaN.
pub(crate) fn round(value: f32) -> i8 {
    (value.round_ties_even() as i8).clamp(-1, 1)
}

/// Writes weights, the first of each five in the lowest digit; digits that are left over hold zeros.
pub(crate) fn pack(mut weights: impl Iterator<Item = i8>, packed: &mut [u8]) {
    for byte in packed {
        let mut place = 1;
        *byte = 0;
        for _ in 0..A_BYTE {
            *byte += (weights.next().unwrap_or(0) + 1) as u8 * place;
            place = place.wrapping_mul(3);
        }
    }
}

/// Reads as many weights as there is room for. A byte above 242, which `pack` never writes, reads as zeros.
pub(crate) fn unpack(packed: &[u8], weights: &mut [f32]) {
    for (weights, byte) in weights.chunks_mut(A_BYTE).zip(packed) {
        let digits = WEIGHTS.get(usize::from(*byte)).unwrap_or(&[0.0; A_BYTE]);
        weights.copy_from_slice(&digits[..weights.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back() {
        for length in 1..=12 {
            let weights: Vec<i8> = (0..length).map(|index| (index * 7 % 3) as i8 - 1).collect();
            let mut packed = vec![0; weights.len().div_ceil(A_BYTE)];
            pack(weights.iter().copied(), &mut packed);
            let mut back = vec![9.0; weights.len()];
            unpack(&packed, &mut back);
            assert_eq!(
                back,
                weights
                    .iter()
                    .map(|weight| f32::from(*weight))
                    .collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn halves_go_to_zero() {
        assert_eq!(
            [-2.0, -0.6, -0.5, 0.5, 0.6, f32::NAN, f32::INFINITY].map(round),
            [-1, -1, 0, 0, 1, 0, 1]
        );
    }
}
