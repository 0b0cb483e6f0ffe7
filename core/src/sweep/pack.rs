//! Cutting cells into tasks.

/// Cuts units, each the cells that should run on one machine one after the other, into tasks of at most `size` cells.
/// Neighbouring units share a task where they fit; a unit that is larger than a task is cut. Without a size, each unit
/// is a task.
pub fn pack<T>(units: impl IntoIterator<Item = Vec<T>>, size: Option<usize>) -> Vec<Vec<T>> {
    let units = units.into_iter().filter(|unit| !unit.is_empty());
    let Some(size) = size.map(|size| size.max(1)) else {
        return units.collect();
    };
    let mut tasks: Vec<Vec<T>> = Vec::new();
    for mut unit in units {
        match tasks.last_mut() {
            Some(last) if last.len() + unit.len() <= size => last.append(&mut unit),
            _ => {
                let mut cells = unit.into_iter().peekable();
                while cells.peek().is_some() {
                    tasks.push(cells.by_ref().take(size).collect());
                }
            }
        }
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_stay_together_where_they_fit() {
        let units = || vec![vec![1, 2], vec![3], vec![], vec![4, 5, 6], vec![7]];
        assert_eq!(pack(units(), None), [vec![1, 2], vec![3], vec![4, 5, 6], vec![7]]);
        assert_eq!(pack(units(), Some(3)), [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
        assert_eq!(pack(units(), Some(4)), [vec![1, 2, 3], vec![4, 5, 6, 7]]);
        assert_eq!(
            pack(units(), Some(2)),
            [vec![1, 2], vec![3], vec![4, 5], vec![6, 7]]
        );
        assert_eq!(pack(units(), Some(1)).len(), 7);
    }
}
