use nalgebra::{DMatrix, SymmetricEigen};

/// Principal components of some points.
pub(super) struct Pca {
    /// A point's coordinates along each axis, from the mean.
    pub(super) coordinates: Vec<Vec<f64>>,
    /// Axes of length 1, the one of most variance first. Each points to where its largest entry by magnitude is
    /// positive, as in scikit-learn.
    pub(super) axes: Vec<Vec<f64>>,
    /// Share of the variance along each axis.
    pub(super) explained_variance: Vec<f64>,
}

/// Axes along which the variance is this much smaller than along the first are rounding.
const RELATIVE_RANK: f64 = 1e-12;

impl Pca {
    /// The first `components` at most, from the eigenvectors of the points' inner products or of the covariance,
    /// whichever is smaller: exact for the axes that carry variance. Points are finite and of equal length.
    pub(super) fn of(points: &[Vec<f32>], components: usize) -> Self {
        let (count, width) = (points.len(), points.first().map_or(0, Vec::len));
        if count < 2 || width == 0 {
            return Self {
                coordinates: vec![Vec::new(); count],
                axes: Vec::new(),
                explained_variance: Vec::new(),
            };
        }
        let mut centred = DMatrix::from_fn(count, width, |row, column| f64::from(points[row][column]));
        for mut column in centred.column_iter_mut() {
            let mean = column.mean();
            column.add_scalar_mut(-mean);
        }
        let by_points = count <= width;
        let products = if by_points {
            &centred * centred.transpose()
        } else {
            centred.transpose() * &centred
        };
        let total = products.trace();
        let eigen = SymmetricEigen::new(products);
        let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
        order.sort_by(|&one, &other| eigen.eigenvalues[other].total_cmp(&eigen.eigenvalues[one]));
        let largest = order.first().map_or(0.0, |&first| eigen.eigenvalues[first]);
        let kept = order
            .into_iter()
            .take(components)
            .filter(|&index| eigen.eigenvalues[index] > RELATIVE_RANK * largest);

        let mut pca = Self {
            coordinates: vec![Vec::new(); count],
            axes: Vec::new(),
            explained_variance: Vec::new(),
        };
        for index in kept {
            let vector = eigen.eigenvectors.column(index);
            let mut axis = if by_points {
                centred.transpose() * vector
            } else {
                vector.into_owned()
            };
            axis.normalize_mut();
            if axis[axis.icamax()] < 0.0 {
                axis.neg_mut();
            }
            for (coordinates, value) in pca.coordinates.iter_mut().zip((&centred * &axis).iter()) {
                coordinates.push(*value);
            }
            pca.axes.push(axis.iter().copied().collect());
            pca.explained_variance.push(eigen.eigenvalues[index] / total);
        }
        pca
    }

    /// Turns axes over so that each points the way of the same one of `others`.
    pub(super) fn point_like(&mut self, others: &[Vec<f64>]) {
        for (place, (axis, other)) in self.axes.iter_mut().zip(others).enumerate() {
            let product: f64 = axis.iter().zip(other).map(|(a, b)| a * b).sum();
            if product < 0.0 {
                for value in axis.iter_mut() {
                    *value = -*value;
                }
                for coordinates in &mut self.coordinates {
                    coordinates[place] = -coordinates[place];
                }
            }
        }
    }
}
