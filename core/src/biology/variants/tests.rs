use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as Generator;
use serde_json::Value;

use super::*;

fn fragment(bases: &str) -> Fragment<'_> {
    Fragment {
        genome_id: "genome",
        fragment_id: "fragment",
        bases,
    }
}

fn scores(values: impl Iterator<Item = f64>) -> VariantScores {
    let scores = values.enumerate().map(|(index, score)| VariantScore {
        position: index as u64 / 3,
        score,
        ..VariantScore::default()
    });
    VariantScores {
        window: 512,
        scores: scores.collect(),
    }
}

#[test]
fn comparisons_are_numpys_and_scipys() {
    /// Sums in another order than numpy's.
    const ROUNDING: f64 = 1e-13;
    let reference = (0..150).map(|k| (f64::from((37 * k) % 101) - 60.0) / 16.0);
    let mode = (0..150)
        .map(|k| (f64::from((37 * k) % 101) - 60.0) / 16.0 + (f64::from((53 * k) % 29) - 14.0) / 16.0);
    let found = compare(&scores(reference), scores(mode), &mut Generator::seed_from_u64(1)).unwrap();
    let text = include_str!("../../../tests/fixtures/biology/expected.json");
    let expected = &serde_json::from_str::<Value>(text).unwrap()["variants"];
    for (name, value) in [
        ("spearman", found.spearman),
        ("top_decile_overlap", found.top_decile_overlap),
        ("same_sign", found.same_sign),
        ("rmse", found.rmse),
        ("reference_std", found.reference_std),
    ] {
        let (value, expected) = (value.unwrap(), expected[name].as_f64().unwrap());
        assert!((value - expected).abs() < ROUNDING, "{name}: {value} {expected}");
    }
    let [low, high] = found.spearman_interval.unwrap();
    let spearman = found.spearman.unwrap();
    assert!(
        low < spearman && spearman < high && high - low < 0.05,
        "{low} {high}"
    );
    assert_eq!((found.positions, found.non_finite), (50, 0));
}

#[test]
fn scores_that_are_not_finite_are_left_out() {
    let reference = scores([1.0, 2.0, 3.0, f64::NAN, 5.0, 6.0].into_iter());
    let mode = scores([1.5, 2.5, f64::INFINITY, 4.0, 5.5, 6.5].into_iter());
    let found = compare(&reference, mode, &mut Generator::seed_from_u64(1)).unwrap();
    assert_eq!(
        (found.non_finite, found.rmse, found.spearman),
        (2, Some(0.5), Some(1.0))
    );
    let other = scores([1.0; 3].into_iter());
    assert!(compare(&reference, other, &mut Generator::seed_from_u64(1)).is_err());
    let nothing = compare(
        &VariantScores::default(),
        VariantScores::default(),
        &mut Generator::seed_from_u64(1),
    );
    assert_eq!(nothing.unwrap().top_decile_overlap, None);
}

#[test]
fn a_site_has_the_three_other_bases_in_place() {
    let site = Site {
        fragment: fragment("GGACGTT"),
        position: 3,
        start: 1,
        end: 6,
    };
    assert_eq!((site.window(), site.reference_base()), ("GACGT", 'C'));
    let alternatives: Vec<(char, String)> = site.alternatives().collect();
    let expected = [('A', "GAAGT"), ('G', "GAGGT"), ('T', "GATGT")];
    assert_eq!(
        alternatives,
        expected.map(|(base, window)| (base, window.to_owned()))
    );
}

#[test]
fn sites_are_spread_over_fragments_and_windows_stay_inside() {
    let bases = "ACGTNACGTACGTACGTTTGACA".repeat(10);
    let fragments = [fragment(&bases), fragment("NNANN"), fragment(&bases)];
    let sites = sample_sites(&fragments, 10, 64, &mut Generator::seed_from_u64(7));
    // 4, 3 and 3 are asked for; the second fragment has one known base.
    assert_eq!(sites.len(), 4 + 1 + 3);
    let mut places: Vec<(usize, usize)> = sites
        .iter()
        .map(|site| (site.fragment.bases.len(), site.position))
        .collect();
    places.sort_unstable();
    for site in &sites {
        assert_ne!(site.reference_base(), 'N');
        assert!((site.start..site.end).contains(&site.position));
        assert_eq!(site.window().len(), 64.min(site.fragment.bases.len()));
        // Centred, unless the fragment ends.
        let centred = site.position - site.start == 32;
        assert!(centred || site.start == 0 || site.end == site.fragment.bases.len());
    }
    assert_eq!(
        sites,
        sample_sites(&fragments, 10, 64, &mut Generator::seed_from_u64(7))
    );
    assert!(sample_sites(&[], 10, 64, &mut Generator::seed_from_u64(7)).is_empty());
}
