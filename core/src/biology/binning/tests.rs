use serde::Deserialize;
use serde_json::Value;

use super::*;

/// Eigenvectors of inner products against a singular value decomposition: half of the digits of f64 and some.
const TOLERANCE: f64 = 1e-9;

const GENOMES: usize = 6;
const FRAGMENTS: usize = 60;

/// The inputs of `generate.py`, formed by the same formulas.
fn embeddings(mode: i64, width: usize) -> Vec<Vec<f32>> {
    let value = |i: i64, d: i64| {
        let g = i % GENOMES as i64;
        let centre = ((7 * g * g + 3 * g * d + 5 * d) % 13) as f32 / 4.0;
        let spread = ((31 * i + 17 * d + 7 * i * d + 5 * mode * d * d) % 23 - 11) as f32 / 16.0;
        let far = if i % 13 == 7 {
            ((11 * i + 3 * d) % 7 - 3) as f32 / 2.0
        } else {
            0.0
        };
        centre + spread + far
    };
    (0..FRAGMENTS)
        .map(|i| (0..width).map(|d| value(i as i64, d as i64)).collect())
        .collect()
}

fn names() -> Vec<(String, String)> {
    (0..FRAGMENTS)
        .map(|index| (format!("genome {}", index % GENOMES), index.to_string()))
        .collect()
}

fn fragments(names: &[(String, String)]) -> Vec<Fragment<'_>> {
    names
        .iter()
        .map(|(genome_id, fragment_id)| Fragment {
            genome_id,
            fragment_id,
            bases: "",
        })
        .collect()
}

fn expected() -> Vec<Value> {
    let text = include_str!("../../../tests/fixtures/biology/expected.json");
    let expected: Value = serde_json::from_str(text).unwrap();
    Vec::deserialize(&expected["binning"]).unwrap()
}

fn assert_close(found: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!(
        (found - expected).abs() <= TOLERANCE * expected.abs().max(1.0),
        "{what}: {found} {expected}"
    );
}

fn assert_agrees(found: &BinningAgreement, expected: &Value) {
    let found = serde_json::to_value(found).unwrap();
    for (name, value) in expected.as_object().unwrap() {
        assert_close(found[name].as_f64().unwrap(), value, name);
    }
    assert_eq!(
        found.as_object().unwrap().len(),
        expected.as_object().unwrap().len()
    );
}

fn labels(value: &Value) -> Vec<Option<u64>> {
    let labels = value.as_array().unwrap().iter();
    labels
        .map(|label| u64::try_from(label.as_i64().unwrap()).ok())
        .collect()
}

#[test]
fn clusters_and_scores_are_scikit_learns() {
    let names = names();
    let fragments = fragments(&names);
    for expected in expected() {
        let width = expected["width"].as_u64().unwrap() as usize;
        let reference = reference(&fragments, &embeddings(0, width));
        assert_close(reference.epsilon, &expected["epsilon"], "epsilon");
        let found: Vec<Option<u64>> = reference
            .clusters
            .iter()
            .map(|cluster| cluster.map(|cluster| cluster as u64))
            .collect();
        assert_eq!(found, labels(&expected["reference_labels"]));
        let found = compare(&reference, &fragments, &embeddings(1, width)).unwrap();
        assert_agrees(&found.reference_agreement, &expected["reference"]);
        assert_agrees(&found.agreement, &expected["mode"]);
        let clusters: Vec<Option<u64>> = found.points.iter().map(|point| point.cluster).collect();
        assert_eq!(clusters, labels(&expected["labels"]));
        assert_close(
            found.ari_with_reference.unwrap(),
            &expected["ari_with_reference"],
            "ari_with_reference",
        );
        for axis in 0..2 {
            assert_close(
                found.explained_variance[axis],
                &expected["explained_variance"][axis],
                "variance",
            );
            for (point, expected) in found
                .points
                .iter()
                .zip(expected["coordinates"].as_array().unwrap())
            {
                assert_close(point.coordinates[axis], &expected[axis], "coordinate");
            }
        }
        assert_eq!(
            (found.genomes, found.components, found.minimum_points),
            (6, 10, 5)
        );
    }
}

#[test]
fn the_reference_agrees_with_itself() {
    let names = names();
    let fragments = fragments(&names);
    let embeddings = embeddings(0, 24);
    let reference = reference(&fragments, &embeddings);
    let found = compare(&reference, &fragments, &embeddings).unwrap();
    assert_eq!(found.agreement, found.reference_agreement);
    assert_eq!(found.ari_with_reference, Some(1.0));
}

#[test]
fn embeddings_that_are_not_finite_are_left_out_and_others_refused() {
    let names = names();
    let fragments = fragments(&names);
    let mut embeddings = embeddings(0, 24);
    let reference = reference(&fragments, &embeddings);
    embeddings[3][1] = f32::NAN;
    let found = compare(&reference, &fragments, &embeddings).unwrap();
    assert_eq!((found.non_finite, found.points.len()), (1, FRAGMENTS - 1));
    assert!(compare(&reference, &fragments[1..], &embeddings[1..]).is_err());
}

#[test]
fn few_or_equal_fragments_have_no_scores_and_do_not_panic() {
    let names = names();
    let fragments = fragments(&names);
    for count in [0, 1, 2, 3] {
        let embeddings = vec![vec![0.5_f32; 4]; count];
        let reference = reference(&fragments[..count], &embeddings);
        let found = compare(&reference, &fragments[..count], &embeddings).unwrap();
        assert_eq!(found.agreement.silhouette, None);
        assert_eq!(found.points.len(), count);
    }
}

#[test]
fn core_points_follow_the_size_of_genomes() {
    assert_eq!(minimum_points(&["a", "a", "b", "b", "c", "c"]), 2);
    assert_eq!(minimum_points(&["a", "b", "c"]), 2);
    assert_eq!(minimum_points(&["a"; 8]), 5);
    assert_eq!(minimum_points(&["a", "a", "a", "b", "b", "b", "b"]), 3);
}
