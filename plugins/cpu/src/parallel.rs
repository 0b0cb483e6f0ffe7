//! Loops over tasks on the threads of the pool.
//!
//! A pass over a token or a few is a hundred short loops: a thread that sleeps between them wakes too late to help. For
//! the time of such a pass ([`awake`]) the other threads of the pool wait for its loops in a loop of their own.

use std::{
    any::Any,
    cell::Cell,
    hint,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
    },
    thread,
};

use qbench_sdk::Result;
use rayon::prelude::*;

/// Turns of waiting after which a thread lets others run: some 20 µs, longer than what lies between two loops.
const PATIENCE: usize = 1 << 10;

thread_local! {
    /// The team that the thread leads.
    static LED: Cell<*const Team> = const { Cell::new(ptr::null()) };
}

/// Calls `run` for each number below `tasks`, with what `init` makes once or more often on each thread that takes part.
///
/// # Errors
/// The first error of `run`; tasks that nobody has begun then are left out.
pub(crate) fn for_each_init<S>(
    tasks: usize,
    init: impl Fn() -> S + Sync + Send,
    run: impl Fn(&mut S, usize) -> Result<()> + Sync + Send,
) -> Result<()> {
    let team = LED.get();
    // One task needs no team.
    if team.is_null() || tasks == 1 {
        return (0..tasks).into_par_iter().try_for_each_init(init, run);
    }
    let stretches = Stretches::new(tasks, rayon::current_num_threads());
    let error = Mutex::new(None);
    let share = || {
        let mut state = None;
        for task in stretches.from(rayon::current_thread_index().unwrap_or(0)) {
            if let Err(reason) = run(state.get_or_insert_with(&init), task) {
                stretches.end();
                error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(reason);
            }
        }
    };
    // SAFETY: `awake` leaves the team there until it takes the pointer back.
    unsafe { &*team }.run(&share);
    match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(reason) => Err(reason),
        None => Ok(()),
    }
}

/// Calls `run` for each number below `tasks`.
pub(crate) fn for_each(tasks: usize, run: impl Fn(usize) + Sync + Send) {
    let run = |(): &mut (), task| {
        run(task);
        Ok(())
    };
    let done = for_each_init(tasks, || (), run);
    debug_assert!(done.is_ok(), "there was no error to hand on");
}

/// Runs a pass on this thread of the pool while the others stay awake for its loops.
pub(crate) fn awake<R: Send>(pass: impl FnOnce() -> R + Send) -> R {
    let leader = rayon::current_thread_index();
    if leader.is_none() || rayon::current_num_threads() == 1 {
        return pass();
    }
    let team = Team::default();
    rayon::scope(|scope| {
        scope.spawn_broadcast(|_, _| {
            // The leader may come here while it waits for a loop of rayon's.
            if rayon::current_thread_index() != leader {
                team.help();
            }
        });
        let _lead = Lead::new(&team);
        pass()
    })
}

/// Lets a team's threads go when the pass is over, or when it panics.
struct Lead<'a> {
    team: &'a Team,
    before: *const Team,
}

impl<'a> Lead<'a> {
    fn new(team: &'a Team) -> Self {
        Self {
            team,
            before: LED.replace(team),
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        LED.set(self.before);
        self.team.over.store(true, Ordering::Release);
    }
}

/// Tasks in as many stretches as there are threads. A thread begins with one of its own, whose tasks often read one piece
/// of memory in order, and goes on with what others have left.
struct Stretches {
    stretches: Vec<Stretch>,
}

/// On a line of the cache of its own.
#[repr(align(64))]
struct Stretch {
    next: AtomicUsize,
    end: usize,
}

impl Stretches {
    fn new(tasks: usize, threads: usize) -> Self {
        let stretch = |thread| Stretch {
            next: AtomicUsize::new(tasks * thread / threads),
            end: tasks * (thread + 1) / threads,
        };
        Self {
            stretches: (0..threads).map(stretch).collect(),
        }
    }

    /// Tasks that nobody has begun, the thread's own ones first.
    fn from(&self, thread: usize) -> impl Iterator<Item = usize> + '_ {
        let count = self.stretches.len();
        (0..count).flat_map(move |other| {
            let stretch = &self.stretches[(thread + other) % count];
            std::iter::from_fn(|| {
                let task = stretch.next.fetch_add(1, Ordering::Relaxed);
                (task < stretch.end).then_some(task)
            })
        })
    }

    /// Leaves out all that nobody has begun.
    fn end(&self) {
        for stretch in &self.stretches {
            stretch.next.store(stretch.end, Ordering::Relaxed);
        }
    }
}

/// A loop that is being run: what a thread calls to take its share.
struct Job<'a> {
    share: &'a (dyn Fn() + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job<'_> {
    fn take_share(&self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(self.share)) {
            self.panic
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(panic);
        }
    }
}

/// The threads of a pass.
#[derive(Default)]
struct Team {
    /// Number of the loop.
    epoch: AtomicUsize,
    /// The loop; null when there is none.
    job: AtomicPtr<Job<'static>>,
    /// Helpers that may look at the loop.
    inside: AtomicUsize,
    over: AtomicBool,
}

impl Team {
    /// Runs a loop; returns when nobody works on it any more.
    fn run(&self, share: &(dyn Fn() + Sync)) {
        let job = Job {
            share,
            panic: Mutex::new(None),
        };
        // The lifetime is forgotten: nobody looks at the job after this function's end.
        self.job
            .store(ptr::from_ref(&job).cast_mut().cast(), Ordering::SeqCst);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        job.take_share();
        // A helper counts itself before it looks, in one order with these two lines: it finds no job, or is waited for.
        self.job.store(ptr::null_mut(), Ordering::SeqCst);
        let mut turns = 0;
        while self.inside.load(Ordering::SeqCst) > 0 {
            wait(&mut turns);
        }
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }

    /// Takes shares of the loops until the pass is over.
    fn help(&self) {
        let (mut done, mut turns) = (0, 0);
        while !self.over.load(Ordering::Acquire) {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch == done {
                wait(&mut turns);
                continue;
            }
            (done, turns) = (epoch, 0);
            self.inside.fetch_add(1, Ordering::SeqCst);
            // SAFETY: `run` keeps a job until nobody is inside, and there is none before and after.
            if let Some(job) = unsafe { self.job.load(Ordering::SeqCst).as_ref() } {
                job.take_share();
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn wait(turns: &mut usize) {
    *turns += 1;
    if *turns < PATIENCE {
        hint::spin_loop();
    } else {
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qbench_sdk::Error;
    use rayon::{ThreadPool, ThreadPoolBuilder};

    fn pool(threads: usize) -> ThreadPool {
        ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn every_task_runs_once_awake_or_not() {
        for threads in [1, 2, 5] {
            for is_awake in [false, true] {
                let loops = || {
                    for tasks in [0, 1, 3, 200] {
                        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                        for_each(tasks, |task| {
                            counts[task].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(
                            counts.iter().all(|count| count.load(Ordering::Relaxed) == 1),
                            "{threads} threads, {tasks} tasks: {counts:?}"
                        );
                    }
                };
                pool(threads).install(|| if is_awake { awake(loops) } else { loops() });
            }
        }
    }

    /// A loop ends only when helpers have left it: its captures live on the stack.
    #[test]
    fn short_loops_follow_each_other() {
        let sum = AtomicUsize::new(0);
        pool(4).install(|| {
            awake(|| {
                for round in 0..2000 {
                    let numbers = [round; 7];
                    for_each(numbers.len(), |task| {
                        sum.fetch_add(numbers[task], Ordering::Relaxed);
                    });
                }
            });
        });
        assert_eq!(sum.into_inner(), 7 * 1999 * 1000);
    }

    #[test]
    fn an_error_ends_the_loop_and_is_handed_on() {
        for threads in [1, 3] {
            let result = pool(threads).install(|| {
                awake(|| {
                    for_each_init(
                        1000,
                        || (),
                        |(), task| match task {
                            400 => Err(Error::InvalidArgument("task 400".to_owned())),
                            _ => Ok(()),
                        },
                    )
                })
            });
            assert!(matches!(result, Err(Error::InvalidArgument(reason)) if reason == "task 400"));
        }
    }

    #[test]
    fn a_panic_is_handed_on_and_the_pool_lives() {
        let pool = pool(3);
        for guilty in [0, 70, 99] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.install(|| awake(|| for_each(100, |task| assert_ne!(task, guilty, "on purpose"))));
            }));
            assert!(caught.is_err());
        }
        let total = pool.install(|| awake(|| (0..1000_usize).into_par_iter().sum::<usize>()));
        assert_eq!(total, 499_500, "loops of rayon's run in a pass as well");
    }
}
