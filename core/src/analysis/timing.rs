//! The time of each cell over its repeats, from the raw samples of the journal.
//!
//! Repeats are blocks: a process of its own each, run once a round of all modes. Levels (milliseconds, tokens a second)
//! are typical times over all blocks with intervals over blocks, then samples. The speed against `standard` is the
//! geometric mean of the ratios within blocks, with the 95 % interval of Student's t: what drifts from block to block
//! cancels in it.

use std::collections::{BTreeMap, HashMap};

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as Generator;

use super::mixture::performance_setting;
use super::modes::{STANDARD, ordered_modes};
use super::table::{Field, Table};
use crate::measure::sampling::Convergence;
use crate::results::{BenchmarkRow, Performance, Record, Status};
use crate::statistics::{
    FEWEST_RESAMPLES, GroupedSamples, Interval, PairedTest, RESAMPLES, Summary, grouped_median,
    grouped_median_interval, supported_quantile, tukey_outliers,
};

/// Seed of the bootstrap: the same results give the same tables.
const SEED: u64 = 0;

/// Most draws for the intervals of all cells together, some seconds: where samples are many, as in a large sweep, each
/// interval has fewer resamples, down to [`FEWEST_RESAMPLES`].
const MOST_DRAWS: usize = 1_000_000_000;

/// A cell over its repeats. Times are seconds of a batch.
#[derive(Clone, Debug)]
pub struct TimedCell {
    /// The mode.
    pub mode: String,
    /// What was measured, by the name of the column.
    pub setting: Vec<(&'static str, String)>,
    /// Number of repeats with numbers.
    pub blocks: usize,
    /// Those of them that converged.
    pub converged: usize,
    /// Number of samples of all repeats.
    pub samples: usize,
    /// The typical time over all repeats.
    pub typical: f64,
    /// Its 95 % interval; `None` of a single repeat with too few samples.
    pub interval: Option<Interval>,
    /// Mean, deviation and extremes of all samples, what batches of different shapes differ by taken out.
    pub summary: Summary,
    /// 90th and 99th percentile of the same, where there are enough.
    pub percentiles: [Option<f64>; 2],
    /// Samples beyond Tukey's inner fences of their repeat.
    pub outliers: usize,
    /// Tokens of a batch in the mean.
    pub tokens: f64,
    /// Bases of a batch in the mean.
    pub bases: Option<f64>,
    /// Speed against `standard` in the same setting, above 1 for faster.
    pub speed: Option<f64>,
    /// Its 95 % interval; `None` below 3 repeats in common.
    pub speed_interval: Option<Interval>,
    /// The typical time of each repeat.
    of_block: BTreeMap<usize, f64>,
}

/// The mode and the setting of a cell.
type Identity = (String, Vec<(&'static str, String)>);

impl TimedCell {
    /// Tokens a second at the typical time, with its interval.
    pub fn tokens_per_second(&self) -> (f64, Option<Interval>) {
        self.rate(self.tokens)
    }

    /// Bases a second at the typical time, with its interval; `None` for tokens that stand for no bases.
    pub fn bases_per_second(&self) -> Option<(f64, Option<Interval>)> {
        Some(self.rate(self.bases?))
    }

    fn rate(&self, count: f64) -> (f64, Option<Interval>) {
        let interval = self.interval.map(|interval| Interval {
            low: count / interval.high,
            high: count / interval.low,
        });
        (count / self.typical, interval)
    }

    fn of(identity: &Identity, repeats: &[(usize, &Performance)], resamples: usize) -> Option<Self> {
        let mut blocks = Vec::new();
        let mut adjusted = Vec::new();
        let mut outliers = 0;
        let mut of_block = BTreeMap::new();
        for (repeat, performance) in repeats {
            let samples = performance.grouped_samples()?;
            let own = samples.adjusted(&performance.batch_seconds);
            outliers += tukey_outliers(&own).len();
            adjusted.extend(own);
            of_block.insert(*repeat, samples.median());
            blocks.push(samples);
        }
        let generator = &mut Generator::seed_from_u64(SEED);
        let interval = match blocks.as_slice() {
            [block] => block.interval(resamples, generator),
            blocks => grouped_median_interval(blocks, resamples, generator),
        };
        let samples = blocks.iter().map(GroupedSamples::count).sum::<usize>();
        let sum = |count: fn(&Performance) -> Option<u64>| {
            let counts = repeats.iter().map(|(_, performance)| count(performance));
            Some(counts.sum::<Option<u64>>()? as f64 / samples as f64)
        };
        let converged = |performance: &Performance| performance.convergence == Some(Convergence::Converged);
        Some(Self {
            mode: identity.0.clone(),
            setting: identity.1.clone(),
            blocks: blocks.len(),
            converged: repeats.iter().filter(|(_, repeat)| converged(repeat)).count(),
            samples,
            typical: grouped_median(&blocks)?,
            interval,
            summary: Summary::of(&adjusted)?,
            percentiles: [0.9, 0.99].map(|probability| supported_quantile(&adjusted, probability)),
            outliers,
            tokens: sum(|performance| Some(performance.tokens))?,
            bases: sum(|performance| performance.bases),
            speed: None,
            speed_interval: None,
            of_block,
        })
    }

    fn compare_with(&mut self, standard: &BTreeMap<usize, f64>) {
        let log_ratios: Vec<f64> = self
            .of_block
            .iter()
            .filter_map(|(repeat, seconds)| Some((standard.get(repeat)? / seconds).ln()))
            .collect();
        // The margin plays no part in an interval.
        let test = PairedTest::of(&log_ratios, 0.0);
        self.speed = crate::statistics::mean(&log_ratios).map(f64::exp);
        self.speed_interval = test.map(|test| test.ratio_interval);
    }
}

/// The cells of a journal that have numbers, modes in their order, settings in that of the journal.
pub fn timed_cells(records: &[Record]) -> Vec<TimedCell> {
    type Repeats<'a> = Vec<(usize, &'a Performance)>;
    let mut cells: Vec<(Identity, Repeats<'_>)> = Vec::new();
    let mut place: HashMap<Identity, usize> = HashMap::new();
    for record in records.iter().filter(|record| record.status == Status::Ok) {
        let (Some(row), Some(performance)) = (BenchmarkRow::of_cell(&record.cell), &record.performance)
        else {
            continue;
        };
        let identity = (row.quantization.clone(), performance_setting(&row));
        let place = *place.entry(identity.clone()).or_insert(cells.len());
        if place == cells.len() {
            cells.push((identity, Vec::new()));
        }
        cells[place].1.push((record.cell.repeat, performance));
    }
    let repeats = cells.iter().flat_map(|(_, repeats)| repeats);
    let resamples = affordable(
        repeats
            .map(|(_, performance)| performance.batch_seconds.len())
            .sum(),
    );
    let mut timed: Vec<TimedCell> = cells
        .iter()
        .filter_map(|(identity, repeats)| TimedCell::of(identity, repeats, resamples))
        .collect();
    let standards: HashMap<_, _> = timed
        .iter()
        .filter(|cell| cell.mode == STANDARD)
        .map(|cell| (cell.setting.clone(), cell.of_block.clone()))
        .collect();
    for cell in &mut timed {
        if let Some(standard) = standards.get(&cell.setting) {
            cell.compare_with(standard);
        }
    }
    let modes = timed.iter().map(|cell| cell.mode.clone()).collect::<Vec<_>>();
    let order = ordered_modes(modes.iter().map(String::as_str));
    timed.sort_by_key(|cell| order.iter().position(|mode| *mode == cell.mode));
    timed
}

/// Resamples of each interval when all cells have so many samples.
fn affordable(samples: usize) -> usize {
    (MOST_DRAWS / samples.max(1)).clamp(FEWEST_RESAMPLES, RESAMPLES)
}

/// The cell of `mode`, where it was measured in one setting only.
pub fn only_cell<'a>(cells: &'a [TimedCell], mode: &str) -> Option<&'a TimedCell> {
    let mut of_mode = cells.iter().filter(|cell| cell.mode == mode);
    of_mode.next().filter(|_| of_mode.next().is_none())
}

/// `timing_analysis.csv`: a line a mode and setting; `None` without cells.
pub fn timing_analysis(cells: &[TimedCell]) -> Option<Table> {
    let settings = cells
        .first()?
        .setting
        .iter()
        .map(|(column, _)| column.replace(' ', "_"));
    let columns = [
        "repeats",
        "converged_repeats",
        "samples",
        "outliers",
        "batch_ms_median",
        "batch_ms_ci_low",
        "batch_ms_ci_high",
        "batch_ms_mean",
        "batch_ms_std",
        "batch_ms_min",
        "batch_ms_max",
        "batch_ms_p90",
        "batch_ms_p99",
        "tokens_per_s_median",
        "tokens_per_s_ci_low",
        "tokens_per_s_ci_high",
        "bases_per_s_median",
        "bases_per_s_ci_low",
        "bases_per_s_ci_high",
        "speed_vs_standard",
        "speed_vs_standard_ci_low",
        "speed_vs_standard_ci_high",
    ];
    let header = ["quantization".to_owned()]
        .into_iter()
        .chain(settings)
        .chain(columns.map(str::to_owned))
        .collect();
    Some(Table {
        file_name: "timing_analysis.csv",
        header,
        rows: cells.iter().map(line).collect(),
    })
}

fn line(cell: &TimedCell) -> Vec<Field> {
    let with_ends = |(value, interval): (Option<f64>, Option<Interval>)| {
        [
            value,
            interval.map(|interval| interval.low),
            interval.map(|interval| interval.high),
        ]
    };
    let milliseconds = |seconds: Option<f64>| seconds.map(|seconds| seconds * 1e3);
    let (tokens, tokens_interval) = cell.tokens_per_second();
    let (bases, bases_interval) = cell.bases_per_second().unzip();
    let counts = [cell.blocks, cell.converged, cell.samples, cell.outliers];
    let Summary {
        mean, std, min, max, ..
    } = cell.summary;
    let [p90, p99] = cell.percentiles;
    let numbers = counts
        .map(|count| Some(count as f64))
        .into_iter()
        .chain(with_ends((Some(cell.typical), cell.interval)).map(milliseconds))
        .chain([Some(mean), std, Some(min), Some(max), p90, p99].map(milliseconds))
        .chain(with_ends((Some(tokens), tokens_interval)))
        .chain(with_ends((bases, bases_interval.flatten())))
        .chain(with_ends((cell.speed, cell.speed_interval)));
    let texts = [cell.mode.clone()]
        .into_iter()
        .chain(cell.setting.iter().map(|(_, value)| value.clone()));
    texts.map(Field::Text).chain(numbers.map(Field::Number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::test_records::performance_record;

    /// Repeats of one batch timed five times about `seconds`, in a machine that drifts from repeat to repeat.
    fn repeats(mode: &str, seconds: f64) -> Vec<Record> {
        let drift = [1.0, 1.3, 0.9];
        let noise = [0.99, 1.0, 1.01, 1.0, 1.002];
        (0..3)
            .map(|repeat| {
                let mut record = performance_record(mode, repeat);
                let performance = record.performance.as_mut().unwrap();
                performance.batches.truncate(1);
                performance.batch_seconds = noise.map(|noise| seconds * drift[repeat] * noise).to_vec();
                record
            })
            .collect()
    }

    #[test]
    fn drift_between_repeats_widens_levels_and_not_ratios() {
        let records = [repeats(STANDARD, 1.0), repeats("8bit", 2.0)].concat();
        let cells = timed_cells(&records);
        let eight = only_cell(&cells, "8bit").unwrap();
        assert_eq!((eight.blocks, eight.samples, eight.converged), (3, 15, 0));
        // The middle of all 15 samples is the third of the first repeat.
        assert_eq!(eight.typical, 2.0);
        let interval = eight.interval.unwrap();
        assert!(interval.low < 1.85 && interval.high > 2.5, "{interval:?}");
        assert!((eight.speed.unwrap() - 0.5).abs() < 1e-12);
        assert!(eight.speed_interval.unwrap().half_width() < 1e-12);
        // 1000 tokens and 5000 bases in 5 batches.
        let (tokens, tokens_interval) = eight.tokens_per_second();
        assert_eq!((tokens, eight.bases_per_second().unwrap().0), (100.0, 500.0));
        assert_eq!(tokens_interval.unwrap().low, 200.0 / interval.high);
    }

    #[test]
    fn what_is_lacking_is_empty() {
        let one = timed_cells(&repeats("8bit", 2.0)[..1]);
        let table = timing_analysis(&one).unwrap();
        let field = |column: &str| {
            let place = table.header.iter().position(|name| name == column).unwrap();
            table.rows[0][place].to_text()
        };
        assert_eq!(
            (field("batch_ms_median").as_str(), field("batch_ms_mean").as_str()),
            ("2000", "2000.8")
        );
        assert_eq!(
            [
                field("batch_ms_ci_low"),
                field("batch_ms_p90"),
                field("speed_vs_standard")
            ],
            ["", "", ""]
        );
        assert_eq!(
            (field("batch_size").as_str(), field("repeats").as_str()),
            ("4", "1")
        );
        assert!(timing_analysis(&[]).is_none());
    }

    #[test]
    fn many_samples_are_resampled_less_often() {
        // A run of five modes with three repeats of thousands of batches; sweeps of a thousand and of many more such cells.
        assert_eq!(affordable(100_000), RESAMPLES);
        assert_eq!(affordable(1_000_000), 1000);
        assert_eq!(affordable(1_000_000_000), FEWEST_RESAMPLES);
        assert_eq!(affordable(0), RESAMPLES);
    }

    #[test]
    fn modes_in_several_settings_have_a_line_each_and_no_common_one() {
        let mut records = repeats("8bit", 2.0);
        let mut others = repeats("8bit", 3.0);
        for record in &mut others {
            record.cell.batch_size = 8;
        }
        records.extend(others);
        let cells = timed_cells(&records);
        assert_eq!(cells.len(), 2);
        assert!(only_cell(&cells, "8bit").is_none());
    }
}
