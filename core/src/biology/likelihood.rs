use crate::quality::QualityError;

/// ln p of the tokens that stand for bases, in nats: Σ ln softmax(logits at t − 1)[token t] over the positions t ≥ 1 with
/// `scored[t]`, in f64. `logits` is `[tokens, vocabulary]`.
///
/// A first token without another before it has no likelihood in a causal model and is not counted. NaN where a logit
/// that is needed is not finite.
///
/// # Errors
/// The shapes do not fit, or an id is beyond the vocabulary.
pub fn log_likelihood(
    logits: &[f32],
    vocabulary: usize,
    ids: &[u32],
    scored: &[bool],
) -> Result<f64, QualityError> {
    if logits.len() != ids.len() * vocabulary || scored.len() != ids.len() {
        return Err(QualityError::LogitsShape {
            side: "window's",
            found: logits.len(),
            tokens: ids.len(),
            vocabulary,
        });
    }
    let mut sum = 0.0;
    for (position, (&id, &scored)) in ids.iter().zip(scored).enumerate() {
        if id as usize >= vocabulary {
            return Err(QualityError::UnknownToken {
                id,
                position,
                vocabulary,
            });
        }
        if position > 0 && scored {
            let row = &logits[(position - 1) * vocabulary..position * vocabulary];
            sum += f64::from(row[id as usize]) - log_sum_exp(row);
        }
    }
    Ok(sum)
}

/// ln Σ exp of a row; NaN where a value is not finite.
fn log_sum_exp(row: &[f32]) -> f64 {
    if row.iter().any(|logit| !logit.is_finite()) {
        return f64::NAN;
    }
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    largest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tokens, logits (0, 0) and (0, ln 3): ln ½, then ln ¾ for token 1.
    #[test]
    fn two_tokens_by_hand() {
        let three = 3.0_f32.ln();
        let logits = [0.0, 0.0, 0.0, three, 9.0, -9.0];
        let whole = log_likelihood(&logits, 2, &[0, 0, 1], &[true; 3]).unwrap();
        assert!((whole - (0.5_f64.ln() + 0.75_f64.ln())).abs() < 1e-7, "{whole}");
        let bases = log_likelihood(&logits, 2, &[0, 0, 1], &[false, true, false]).unwrap();
        assert_eq!(bases, 0.5_f64.ln());
        // What comes after the last base is not asked for.
        let broken = [0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0];
        assert!(
            log_likelihood(&broken, 2, &[0, 0, 1], &[true; 3])
                .unwrap()
                .is_nan()
        );
        assert_eq!(
            log_likelihood(&broken, 2, &[0, 0, 1], &[true, true, false]).unwrap(),
            0.5_f64.ln()
        );
    }

    #[test]
    fn wrong_shapes_and_tokens_are_refused() {
        assert!(matches!(
            log_likelihood(&[0.0; 3], 2, &[0, 1], &[true; 2]),
            Err(QualityError::LogitsShape { .. })
        ));
        assert!(matches!(
            log_likelihood(&[0.0; 4], 2, &[0, 2], &[true; 2]),
            Err(QualityError::UnknownToken {
                id: 2,
                position: 1,
                ..
            })
        ));
    }
}
