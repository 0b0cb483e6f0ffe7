//! Work on independent parts, with a limit on threads.

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

use crate::Result;

/// Calls `work` for every part, on at most `threads` threads, this one included. Each takes the next part when it has
/// done one.
///
/// # Errors
/// An error of `work`, after which the thread that met it takes no further part.
pub fn for_each<P: Send>(
    parts: impl ExactSizeIterator<Item = P> + Send,
    threads: usize,
    work: impl Fn(P) -> Result<()> + Sync,
) -> Result<()> {
    let helpers = threads.min(parts.len()).saturating_sub(1);
    let parts = Mutex::new(parts);
    let run = || {
        loop {
            // The lock is held by `next` alone, which leaves no part half taken.
            let part = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
            match part {
                Some(part) => work(part)?,
                None => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        // Where no thread is to be had, the others do its share.
        let helpers: Vec<_> = (0..helpers)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, run).ok())
            .collect();
        let own = run();
        helpers.into_iter().fold(own, |result, helper| {
            result.and(
                helper
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn every_part_is_done_once() {
        for threads in [0, 1, 3, 100] {
            let mut values = [0_u32; 10];
            for_each(values.chunks_mut(3).enumerate(), threads, |(index, part)| {
                for value in part {
                    *value += index as u32 + 1;
                }
                Ok(())
            })
            .unwrap();
            assert_eq!(values, [1, 1, 1, 2, 2, 2, 3, 3, 3, 4], "{threads} threads");
        }
        for_each([0_u8; 0].into_iter(), 4, |_| unreachable!("there is no part")).unwrap();
    }

    #[test]
    fn an_error_of_any_thread_is_returned() {
        for bad in 0..4 {
            let result = for_each(0..4, 2, |part| {
                if part == bad {
                    Err(Error::Internal("bad".to_owned()))
                } else {
                    Ok(())
                }
            });
            assert!(result.is_err(), "{bad}");
        }
    }
}
