/// Euclidean distances between points, each with each.
pub(super) struct Distances {
    count: usize,
    values: Vec<f64>,
}

impl Distances {
    pub(super) fn between(points: &[Vec<f64>]) -> Self {
        let distance = |a: &[f64], b: &[f64]| {
            let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
            squares.sqrt()
        };
        let values = points
            .iter()
            .flat_map(|a| points.iter().map(move |b| distance(a, b)));
        Self {
            count: points.len(),
            values: values.collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The distances of a point to all points, itself included.
    pub(super) fn of(&self, point: usize) -> &[f64] {
        &self.values[point * self.count..(point + 1) * self.count]
    }

    /// The distance of a point to its nearest, second nearest ... neighbour (`neighbour` 1, 2, ...).
    pub(super) fn nearest(&self, point: usize, neighbour: usize) -> Option<f64> {
        let mut sorted = self.of(point).to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(neighbour).copied()
    }

    /// Mean over points of (b − a) / max(a, b), with a the mean distance to the other points of the same label and b the
    /// smallest mean distance to the points of another (P. J. Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 20, 1987);
    /// 0 for a point that is alone. `None` unless there are at least two labels and fewer than points.
    pub(super) fn silhouette(&self, labels: &[&str]) -> Option<f64> {
        let mut names = labels.to_vec();
        names.sort_unstable();
        names.dedup();
        if names.len() < 2 || names.len() >= self.count {
            return None;
        }
        let of_name: Vec<usize> = labels
            .iter()
            .map(|label| names.binary_search(label).unwrap_or_default())
            .collect();
        let mut sizes = vec![0_usize; names.len()];
        for &name in &of_name {
            sizes[name] += 1;
        }
        let width = |point: usize| {
            let own = of_name[point];
            if sizes[own] == 1 {
                return 0.0;
            }
            let mut sums = vec![0.0; names.len()];
            for (&name, distance) in of_name.iter().zip(self.of(point)) {
                sums[name] += distance;
            }
            let within = sums[own] / (sizes[own] - 1) as f64;
            let between = (0..names.len())
                .filter(|&name| name != own)
                .map(|name| sums[name] / sizes[name] as f64)
                .fold(f64::INFINITY, f64::min);
            let larger = within.max(between);
            if larger > 0.0 {
                (between - within) / larger
            } else {
                0.0
            }
        };
        Some((0..self.count).map(width).sum::<f64>() / self.count as f64)
    }

    /// Share of points whose nearest other point (the first of equally near) has their label, among the points of labels
    /// that several have.
    pub(super) fn nearest_is_alike(&self, labels: &[&str]) -> Option<f64> {
        let (mut alike, mut asked) = (0, 0);
        for point in 0..self.count {
            let others = || (0..self.count).filter(|&other| other != point);
            if !others().any(|other| labels[other] == labels[point]) {
                continue;
            }
            let nearest =
                others().min_by(|&one, &other| self.of(point)[one].total_cmp(&self.of(point)[other]));
            asked += 1;
            alike += usize::from(nearest.is_some_and(|nearest| labels[nearest] == labels[point]));
        }
        (asked > 0).then(|| f64::from(alike as u32) / f64::from(asked as u32))
    }
}
