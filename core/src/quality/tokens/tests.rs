use super::*;
use crate::quality::QualityError;
use crate::quality::test_values::{LOGITS_VOCABULARY, assert_close, logits};
use crate::results::TokenQuality;
use crate::statistics::Interval;

const TOKENS: [u32; 5] = [5, 1, 4, 2, 3];

fn accumulator() -> TokenAccumulator {
    TokenAccumulator::new(Path::new("/nonexistent"))
}

fn info(genome: &str, bases: usize) -> SequenceInfo<'_> {
    SequenceInfo {
        index: 0,
        genome,
        gc: Some(0.5),
        bases,
    }
}

fn add(accumulator: &mut TokenAccumulator, sides: [&[f32]; 2], ids: &[u32], bases: usize) {
    let pair = SequencePair::new(sides[0], sides[1], ids, sides[0].len() / ids.len()).unwrap();
    let positions = pair.compare(0..pair.positions());
    accumulator.add(info("genome", bases), &positions, None).unwrap();
}

fn finish(accumulator: TokenAccumulator) -> TokenReport {
    accumulator.finish(1).unwrap()
}

#[test]
fn two_sequences_give_scipys_numbers() {
    let mut accumulator = accumulator();
    for (sequence, tokens, bases) in [(0, 5, 12), (1, 3, 7)] {
        let (reference, mode) = logits(sequence, tokens);
        assert_eq!(reference.len(), tokens * LOGITS_VOCABULARY);
        add(&mut accumulator, [&reference, &mode], &TOKENS[..tokens], bases);
    }
    let report = finish(accumulator);
    assert_eq!(report.warnings, Vec::<String>::new());
    let quality = report.quality;
    // From scipy.special.log_softmax, np.median, np.percentile on the same logits.
    assert_close(quality.kl.mean.value, 0.140_412_644_251_778_68);
    assert_close(quality.kl.median, 0.131_612_987_385_088_84);
    assert_close(quality.kl.p99, 0.180_361_076_446_822_87);
    assert_close(quality.kl.max, 0.181_051_232_852_249_56);
    assert_close(quality.same_top1.value, 0.375);
    assert_close(quality.perplexity.value, 6.303_135_943_812_784);
    assert_close(quality.reference_perplexity, 4.635_549_224_572_576);
    assert_close(quality.next_token_accuracy.value, 0.166_666_666_666_666_66);
    assert_close(quality.bits_per_base.value, 0.838_758_877_454_348_5);
    assert_eq!(quality.non_finite, 0);
    assert_eq!(quality.interval_unit, "sequence");
    assert!(quality.kl.mean.interval.is_some() && quality.kl_macro.interval.is_none());
}

/// One token has nothing to predict; its KL counts.
#[test]
fn the_last_position_counts_for_kl_only() {
    let mut accumulator = accumulator();
    add(&mut accumulator, [&[0.0, 0.0], &[0.0, 2.0]], &[1], 5);
    let report = finish(accumulator);
    assert_close(report.quality.kl.mean.value, 1.0_f64.cosh().ln());
    assert_eq!(report.quality.same_top1.value, 0.0);
    assert!(report.quality.perplexity.value.is_nan() && report.quality.bits_per_base.value.is_nan());
    assert!(report.quality.delta_p.max.is_nan());
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
}

/// Four equally likely tokens: perplexity 4 = 2 bits a token; 3 predictions over 6 bases are 1 bit a base.
#[test]
fn a_uniform_model_by_hand() {
    let mut accumulator = accumulator();
    add(&mut accumulator, [&[7.0; 16], &[-1.0; 16]], &[0, 0, 3, 0], 6);
    let quality = finish(accumulator).quality;
    assert_close(quality.perplexity.value, 4.0);
    assert_close(quality.reference_perplexity, 4.0);
    assert_close(quality.bits_per_base.value, 1.0);
    assert_close(quality.next_token_accuracy.value, 2.0 / 3.0);
    assert_eq!((quality.kl.max, quality.same_top1.value), (0.0, 1.0));
    assert_close(quality.delta_p.max, 0.0);
    assert_eq!(quality.js.max, 0.0);
    assert_eq!(quality.by_confidence.len(), 1);
    assert_eq!(quality.by_confidence[0].label, "0.25-0.5");
    assert_eq!(quality.by_gc[0].label, "0.5-0.6");
}

#[test]
fn logits_that_are_not_finite_are_counted_and_left_out() {
    let mut reference = vec![0.0; 6];
    let mut mode = vec![0.0, 2.0, 0.0, 2.0, 0.0, 0.0];
    reference[2] = f32::NAN;
    mode[2] = f32::INFINITY;
    mode[3] = f32::NEG_INFINITY;
    let mut one = accumulator();
    add(&mut one, [&reference, &mode], &[0, 1, 0], 3);
    let report = finish(one);
    assert_eq!((report.quality.non_finite, report.quality.excluded), (3, 1));
    assert_close(report.quality.kl.mean.value, 1.0_f64.cosh().ln() / 2.0);
    assert_close(report.quality.reference_perplexity, 2.0);
    assert!(
        report.warnings[0].contains("3 logits at 1 of 3 positions"),
        "{:?}",
        report.warnings
    );

    let mut nothing = accumulator();
    add(&mut nothing, [&[0.0; 4], &[f32::NAN; 4]], &[0, 1], 3);
    let quality = finish(nothing).quality;
    assert!(quality.kl.mean.value.is_nan() && quality.kl.max.is_nan());
    assert!(quality.same_top1.value.is_nan() && quality.perplexity.value.is_nan());
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let error = SequencePair::new(&[0.0; 4], &[0.0; 3], &[0, 1], 2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "mode logits: 3 values for 2 tokens and a vocabulary of 2; expected 4"
    );
    let error = SequencePair::new(&[0.0; 4], &[0.0; 4], &[0, 2], 2).unwrap_err();
    assert_eq!(
        error,
        QualityError::UnknownToken {
            id: 2,
            position: 1,
            vocabulary: 2
        }
    );
}

#[test]
fn windows_predict_every_token_but_the_first_once() {
    let spans = |length, context, stride| -> Vec<_> {
        windows(length, context, stride)
            .into_iter()
            .map(|window| (window.tokens, window.predicted))
            .collect()
    };
    assert_eq!(spans(10, 6, 2), [(0..6, 1..6), (2..8, 6..8), (4..10, 8..10)]);
    assert_eq!(spans(5, 8, 4), [(0..5, 1..5)]);
    assert_eq!(spans(9, 4, 3), [(0..4, 1..4), (3..7, 4..7), (6..9, 7..9)]);
    assert_eq!(spans(1, 4, 3), []);
}

#[test]
fn gc_is_a_share_of_the_known_bases() {
    assert_eq!(gc_share("GGCANNNN"), Some(0.75));
    assert_eq!(gc_share("NN"), None);
}

/// Two genomes of unlike size: the micro average weighs tokens, the macro average genomes.
#[test]
fn micro_and_macro_averages_differ() {
    let mut accumulator = accumulator();
    // KL of uniform against softmax(0, d) is ln cosh(d / 2).
    for (genome, tokens, difference) in [("one", 3, 2.0), ("two", 1, 4.0)] {
        let reference = vec![0.0; 2 * tokens];
        let mode: Vec<f32> = [0.0, difference].repeat(tokens);
        let pair = SequencePair::new(&reference, &mode, &TOKEN_OF_TWO[..tokens], 2).unwrap();
        accumulator
            .add(info(genome, 3), &pair.compare(0..tokens), None)
            .unwrap();
    }
    let quality: TokenQuality = finish(accumulator).quality;
    let (one, two) = (1.0_f64.cosh().ln(), 2.0_f64.cosh().ln());
    assert_close(quality.kl.mean.value, (3.0 * one + two) / 4.0);
    assert_close(quality.kl_macro.value, f64::midpoint(one, two));
    assert_eq!(quality.interval_unit, "genome");
    let genomes: Vec<_> = quality
        .by_genome
        .iter()
        .map(|group| group.label.as_str())
        .collect();
    assert_eq!(genomes, ["one", "two"]);
    assert_close(quality.by_genome[1].kl.value, two);
    assert_eq!(quality.sequences[1].genome, 1);
}

const TOKEN_OF_TWO: [u32; 3] = [0, 1, 0];

/// Sequences of a genome are drawn together: to read each of them four times is no more evidence.
#[test]
fn intervals_are_over_genomes() {
    const LENGTH: usize = 8;
    let quality = [1, 4].map(|times| {
        let mut accumulator = accumulator();
        for genome in 0..12 {
            let mode: Vec<f32> = (0..LENGTH)
                .flat_map(|token| [0.0, genome as f32 * 0.3 + token as f32 * 0.05])
                .collect();
            let reference = vec![0.0; mode.len()];
            let pair = SequencePair::new(&reference, &mode, &[0; LENGTH], 2).unwrap();
            let positions = pair.compare(0..pair.positions());
            let name = format!("genome {genome}");
            for _ in 0..times {
                accumulator.add(info(&name, 20), &positions, None).unwrap();
            }
        }
        finish(accumulator).quality
    });
    let [once, often] = quality.each_ref();
    assert_eq!([&once.interval_unit, &often.interval_unit], ["genome", "genome"]);
    let (means, medians) = (
        [once, often].map(|quality| quality.kl.mean.interval.unwrap()),
        [once, often].map(|quality| quality.kl.quantile_intervals[6].unwrap()),
    );
    let width = |interval: Interval| interval.high - interval.low;
    assert_close(width(means[0]), width(means[1]));
    // Quantiles lie between other values of a longer list. By sequences the width would be a half.
    let ratio = width(medians[1]) / width(medians[0]);
    assert!((0.9..1.1).contains(&ratio), "{medians:?}");
}
