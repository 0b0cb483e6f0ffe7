//! Passes through the tiny model.

use super::{
    BackendSubject, Cache, DType, Outcome, Storage, Tokens, distance, forward, near, on_device, tolerance,
};
use crate::conformance::{
    golden::{BATCH, HIDDEN, LAYERS, LENGTH, VOCABULARY, floats, ids, mask},
    report::{Broken, Verdict, pass},
};

pub(super) fn matches_transformers(subject: &BackendSubject) -> Outcome {
    on_device(subject, |opened| {
        let (ids, mask) = (ids(), mask());
        let mut found = Vec::new();
        for precision in opened.backend.info().precisions {
            let mut model = opened.load(Storage::AsIs, precision, 2)?;
            let info = model.info()?;
            if (info.vocab_size, info.hidden_size, info.layers) != (VOCABULARY, HIDDEN, LAYERS) {
                return Err(Broken(format!(
                    "a model with {VOCABULARY} tokens, {HIDDEN} wide, {LAYERS} layers is described as {}, {}, {}",
                    info.vocab_size, info.hidden_size, info.layers
                )));
            }
            let tokens = Tokens {
                ids: &ids,
                mask: &mask,
                batch: BATCH,
                cache: Cache::None,
            };
            let outputs = forward(model.as_mut(), tokens)?;
            let limit = tolerance(precision);
            for (layer, states) in outputs.hidden.iter().enumerate() {
                let truth = floats(&format!("hidden.{layer}"));
                near(
                    &format!("hidden state {layer} in {precision}"),
                    distance(states, &truth, &mask),
                    limit,
                )?;
            }
            let logits = distance(&outputs.logits, &floats("logits"), &mask);
            near(&format!("logits in {precision}"), logits, limit)?;
            found.push(format!("{precision} {logits:.1e}"));
        }
        Ok((
            Verdict::Pass,
            format!("relative error of logits: {}", found.join(", ")),
        ))
    })
}

pub(super) fn batch_equals_single(subject: &BackendSubject) -> Outcome {
    on_device(subject, |opened| {
        let (ids, mask) = (ids(), mask());
        let mut model = opened.load(Storage::AsIs, opened.precision, 2)?;
        let tokens = Tokens {
            ids: &ids,
            mask: &mask,
            batch: BATCH,
            cache: Cache::None,
        };
        let together = forward(model.as_mut(), tokens)?;
        for sequence in 0..BATCH {
            let range = sequence * LENGTH..(sequence + 1) * LENGTH;
            // Alone, a sequence is not padded. Padding on the left shifts positions, which rotary embeddings do not see.
            let kept: Vec<usize> = range.clone().filter(|at| mask[*at] == 1).collect();
            let alone_ids: Vec<u32> = kept.iter().map(|at| ids[*at]).collect();
            let alone_mask = vec![1; kept.len()];
            let tokens = Tokens {
                ids: &alone_ids,
                mask: &alone_mask,
                batch: 1,
                cache: Cache::None,
            };
            let alone = forward(model.as_mut(), tokens)?;
            let same: Vec<f32> = kept
                .iter()
                .flat_map(|at| &together.logits[at * VOCABULARY..(at + 1) * VOCABULARY])
                .copied()
                .collect();
            let limit = tolerance(opened.precision);
            near(
                &format!("sequence {sequence} in a padded batch and alone"),
                distance(&same, &alone.logits, &alone_mask),
                limit,
            )?;
        }
        pass()
    })
}

pub(super) fn pooled_is_the_mean(subject: &BackendSubject) -> Outcome {
    on_device(subject, |opened| {
        let (ids, mask) = (ids(), mask());
        let mut model = opened.load(Storage::AsIs, opened.precision, 2)?;
        let tokens = Tokens {
            ids: &ids,
            mask: &mask,
            batch: BATCH,
            cache: Cache::None,
        };
        let outputs = forward(model.as_mut(), tokens)?;
        for (layer, (hidden, pooled)) in outputs.hidden.iter().zip(&outputs.pooled).enumerate() {
            let mut means = vec![0.0; BATCH * HIDDEN];
            for (at, _) in mask.iter().enumerate().filter(|(_, token)| **token == 1) {
                let sequence = at / LENGTH;
                let count: u8 = mask[sequence * LENGTH..(sequence + 1) * LENGTH].iter().sum();
                for col in 0..HIDDEN {
                    means[sequence * HIDDEN + col] += hidden[at * HIDDEN + col] / f32::from(count);
                }
            }
            let limit = tolerance(opened.precision);
            near(
                &format!("pooled state {layer}"),
                distance(pooled, &means, &[1; BATCH]),
                limit,
            )?;
        }
        pass()
    })
}

pub(super) fn cache_continues(subject: &BackendSubject) -> Outcome {
    on_device(subject, |opened| {
        let (ids, ones) = (&ids()[..LENGTH], [1; LENGTH]);
        let mut model = opened.load(Storage::AsIs, opened.precision, 2)?;
        let whole = Tokens {
            ids,
            mask: &ones,
            batch: 1,
            cache: Cache::None,
        };
        let truth = forward(model.as_mut(), whole)?.logits;
        // Twice: the second start must forget the first sequence.
        for _ in 0..2 {
            let mut pieces = Vec::new();
            for (start, end, cache) in [
                (0, 7, Cache::Start),
                (7, 8, Cache::Continue),
                (8, 15, Cache::Continue),
                (15, LENGTH, Cache::Continue),
            ] {
                let tokens = Tokens {
                    ids: &ids[start..end],
                    mask: &ones[..end],
                    batch: 1,
                    cache,
                };
                pieces.extend(forward(model.as_mut(), tokens)?.logits);
            }
            near(
                "logits of a sequence in four pieces",
                distance(&pieces, &truth, &ones),
                tolerance(opened.precision),
            )?;
        }
        pass()
    })
}

pub(super) fn deterministic_as_declared(subject: &BackendSubject) -> Outcome {
    on_device(subject, |opened| {
        let (ids, mask) = (ids(), mask());
        let tokens = Tokens {
            ids: &ids,
            mask: &mask,
            batch: BATCH,
            cache: Cache::None,
        };
        let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|value| value.to_bits()).collect() };
        let mut first: Option<Vec<u32>> = None;
        for precision in [opened.precision, DType::F32] {
            if !opened.backend.info().precisions.contains(&precision) {
                continue;
            }
            let mut one = opened.load(Storage::AsIs, precision, 1)?;
            let mut two = opened.load(Storage::AsIs, precision, 2)?;
            if !one.info()?.deterministic {
                return Ok((Verdict::Skip, "it does not claim to be deterministic".to_owned()));
            }
            let runs = [
                forward(one.as_mut(), tokens)?,
                forward(one.as_mut(), tokens)?,
                forward(two.as_mut(), tokens)?,
            ];
            let [a, again, other] = runs.map(|outputs| bits(&outputs.logits));
            if a != again {
                return Err(Broken(format!(
                    "in {precision}, the same batch gives other bits the second time"
                )));
            }
            if a != other {
                return Ok((
                    Verdict::Warn,
                    format!("in {precision}, two threads give other bits than one"),
                ));
            }
            first.get_or_insert(a);
        }
        pass()
    })
}
