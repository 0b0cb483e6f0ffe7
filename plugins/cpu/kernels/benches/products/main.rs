//! Speed of each product kernel as a share of what the machine can do, measured in the same run on one thread.
//!
//! The ceilings are a loop of independent multiply-adds of each kind, a sum over memory far larger than the caches and a
//! copy of it. Every round measures all of them once, so that what else runs on the machine hits all alike; the medians
//! of the rounds are compared. Arguments choose the kernels whose names contain one of them:
//! `cargo bench -p qbench-cpu-kernels -- 'one token'`.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod ceilings;
mod many_tokens;
mod one_token;
mod weights;

use std::{env, time::Instant};

use ceilings::Limit;
use qbench_cpu_kernels::InstructionSet;

const ROUNDS: usize = 15;

/// Something that is timed.
struct Subject {
    name: String,
    /// Operations of a call, or bytes, as its limit counts.
    work: f64,
    /// What it is compared with.
    limit: Limit,
    run: Box<dyn FnMut()>,
    rates: Vec<f64>,
}

impl Subject {
    fn new(name: String, work: usize, limit: Limit, run: impl FnMut() + 'static) -> Self {
        Self {
            name,
            work: work as f64,
            limit,
            run: Box::new(run),
            rates: Vec::new(),
        }
    }

    fn time(&mut self) {
        let start = Instant::now();
        (self.run)();
        self.rates.push(self.work / start.elapsed().as_secs_f64());
    }
}

fn main() {
    let set = InstructionSet::from_environment().unwrap_or_else(|reason| panic!("{reason}"));
    let filters: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut subjects = ceilings::all(set);
    let ceilings = subjects.len();
    let mut kernels = many_tokens::all(set);
    kernels.extend(one_token::all(set));
    kernels.retain(|kernel| filters.is_empty() || filters.iter().any(|filter| kernel.name.contains(filter)));
    subjects.extend(kernels);
    // The first round warms up.
    for round in 0..=ROUNDS {
        for subject in &mut subjects {
            subject.time();
            if round == 0 {
                subject.rates.clear();
            }
        }
    }
    println!("{set}, one thread, medians of {ROUNDS} rounds");
    let (ceilings, kernels) = subjects.split_at(ceilings);
    for ceiling in ceilings {
        println!(
            "{:44} {:8.1} G{}/s",
            ceiling.name,
            median(&ceiling.rates) / 1e9,
            ceiling.limit.unit()
        );
    }
    for kernel in kernels {
        let rate = median(&kernel.rates);
        let Some(ceiling) = ceilings.iter().find(|ceiling| ceiling.limit == kernel.limit) else {
            panic!("no ceiling for {}", kernel.name);
        };
        println!(
            "{:44} {:8.1} G{}/s {:5.1} % of {}",
            kernel.name,
            rate / 1e9,
            kernel.limit.unit(),
            100.0 * rate / median(&ceiling.rates),
            ceiling.name
        );
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
