//! Speed of each kernel and pass as a share of what the machine can do, measured in the same run.
//!
//! The ceilings are a loop of independent multiply-adds of each kind, a sum over memory far larger than the caches and a
//! copy of it. Every round measures all of them once, so that what else runs on the machine hits all alike; the medians
//! of the rounds are compared. Arguments choose the kernels whose names contain one of them:
//! `cargo bench -p qbench-cpu --bench shares -- 'one token'`. With `QBENCH_BENCH_THREADS` that many threads do the same at
//! once, each with data of its own: what bounds one thread may not be what bounds the machine.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod attention;
mod ceilings;
mod elementwise;
mod many_tokens;
mod memory;
mod one_token;
mod weights;

use std::{env, num::NonZeroUsize, sync::Barrier, thread, time::Instant};

use ceilings::Limit;
use qbench_cpu_kernels::InstructionSet;
use rayon::{ThreadPool, ThreadPoolBuilder};

const ROUNDS: usize = 15;

/// Something that is timed, on one thread.
struct Subject {
    name: String,
    /// Operations of a call, or bytes, as its limit counts.
    work: f64,
    /// What it is compared with.
    limit: Limit,
    run: Box<dyn FnMut() + Send>,
}

impl Subject {
    fn new(name: String, work: usize, limit: Limit, run: impl FnMut() + Send + 'static) -> Self {
        Self {
            name,
            work: work as f64,
            limit,
            run: Box::new(run),
        }
    }
}

/// A pool of one thread, on which loops of rayon's stay.
fn one_thread() -> ThreadPool {
    ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap_or_else(|reason| panic!("start a thread: {reason}"))
}

/// Work a second of the same subject on the threads of several pools at once.
fn rate<'a>(subjects: impl ExactSizeIterator<Item = (&'a ThreadPool, &'a mut Subject)>) -> f64 {
    let start = Barrier::new(subjects.len());
    let mut work = 0.0;
    let seconds = thread::scope(|scope| {
        let threads: Vec<_> = subjects
            .map(|(pool, subject)| {
                work += subject.work;
                let timed = || {
                    start.wait();
                    let begun = Instant::now();
                    (subject.run)();
                    begun.elapsed().as_secs_f64()
                };
                scope.spawn(|| pool.install(timed))
            })
            .collect();
        threads.into_iter().fold(0.0_f64, |longest, thread| {
            longest.max(
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            )
        })
    });
    work / seconds
}

fn main() {
    let set = InstructionSet::from_environment().unwrap_or_else(|reason| panic!("{reason}"));
    let threads = env::var("QBENCH_BENCH_THREADS").map_or(1, |text| {
        text.parse::<NonZeroUsize>()
            .unwrap_or_else(|reason| panic!("QBENCH_BENCH_THREADS={text}: {reason}"))
            .get()
    });
    let filters: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let pools: Vec<ThreadPool> = (0..threads).map(|_| one_thread()).collect();
    let mut subjects: Vec<Vec<Subject>> = (0..threads)
        .map(|_| {
            let mut kernels = many_tokens::all(set);
            kernels.extend(one_token::all(set));
            kernels.extend(attention::all(set));
            kernels.extend(elementwise::all());
            kernels.retain(|kernel| {
                filters.is_empty() || filters.iter().any(|filter| kernel.name.contains(filter))
            });
            let mut subjects = ceilings::all(set);
            subjects.extend(kernels);
            subjects
        })
        .collect();
    let count = subjects[0].len();
    let mut rates = vec![Vec::new(); count];
    // The first round warms up.
    for round in 0..=ROUNDS {
        for (index, rates) in rates.iter_mut().enumerate() {
            let subjects = subjects.iter_mut().map(|subjects| &mut subjects[index]);
            let rate = rate(pools.iter().zip(subjects));
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    println!("{set}, threads: {threads}, medians of {ROUNDS} rounds");
    let medians: Vec<(&Subject, f64)> = subjects[0]
        .iter()
        .zip(rates.iter().map(|rates| median(rates)))
        .collect();
    let (ceilings, kernels) = medians.split_at(ceilings::COUNT);
    for (ceiling, rate) in ceilings {
        println!(
            "{:44} {:8.1} G{}/s",
            ceiling.name,
            rate / 1e9,
            ceiling.limit.unit()
        );
    }
    for (kernel, rate) in kernels {
        let Some((ceiling, peak)) = ceilings.iter().find(|(ceiling, _)| ceiling.limit == kernel.limit) else {
            panic!("no ceiling for {}", kernel.name);
        };
        println!(
            "{:44} {:8.1} G{}/s {:5.1} % of {}",
            kernel.name,
            rate / 1e9,
            kernel.limit.unit(),
            100.0 * rate / peak,
            ceiling.name
        );
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
