//! Floating-point operations of one forward pass, from a decoder's shape. A multiplication and an addition count as two.
//!
//! Two counts are kept: the original Python system's, whose formula assumes as many KV heads as heads and an MLP of two
//! matrices, so that old result files compare; and the exact count of the matrix products that a gated decoder with
//! grouped-query attention runs.

/// The shape of a decoder with a gated MLP (Mistral, Llama).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderShape {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Size of the vocabulary.
    pub vocabulary: usize,
}

/// Which query-key pairs attention computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionPairs {
    /// All T² of them, masked or not: what a plain matrix product computes.
    Full,
    /// The T·(T + 1)/2 that a causal mask leaves.
    Causal,
}

/// Whether the pass ends in logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputHead {
    /// Logits at every position: the head's matrix product counts.
    EveryPosition,
    /// Logits at so many positions.
    Positions(usize),
    /// Hidden states only.
    None,
}

/// The original Python system's count for a sequence of `tokens`: L·[(4 + 4·m)·T·d² + 2·T²·d], with L layers, T tokens,
/// width d and m = d_ff/d, 4 when `intermediate` is unknown. The column `flops_per_seq`.
///
/// It counts a multiply-add of the projections and of attention once and of the MLP twice, takes keys and values as wide
/// as queries and the MLP as two matrices, and leaves the head out. It is kept because old files hold it.
pub fn flops_per_sequence_original(
    layers: usize,
    hidden: usize,
    intermediate: Option<usize>,
    tokens: usize,
) -> f64 {
    let [layers, width, tokens] = [layers, hidden, tokens].map(|number| number as f64);
    let ratio = intermediate.map_or(4.0, |intermediate| intermediate as f64 / width);
    layers * ((4.0 + 4.0 * ratio) * tokens * width * width + 2.0 * tokens * tokens * width)
}

/// The exact count of the matrix products for a sequence of `tokens`, without padding. The column
/// `flops_per_seq_exact`.
///
/// Counted, with T tokens, H heads of width D, K of them for keys and values:
/// - every linear layer, 2·T·(its weights): q and o (hidden × H·D each), k and v (hidden × K·D each), gate, up and down
///   (hidden × intermediate each), and the head (hidden × vocabulary) where logits are computed;
/// - attention, 2·D operations a head and pair for the scores and as many for the weighted sum: 4·H·D·pairs a layer,
///   with the pairs of [`AttentionPairs`].
///
/// Not counted: embedding, norms, RoPE, softmax, activations, residual additions, the work of dequantising.
pub fn flops_per_sequence_exact(
    shape: &DecoderShape,
    tokens: usize,
    pairs: AttentionPairs,
    head: OutputHead,
) -> f64 {
    let [hidden, intermediate, vocabulary, tokens] =
        [shape.hidden, shape.intermediate, shape.vocabulary, tokens].map(|number| number as f64);
    let query_width = (shape.heads * shape.head_dim) as f64;
    let key_width = (shape.kv_heads * shape.head_dim) as f64;
    let weights = hidden * (2.0 * query_width + 2.0 * key_width + 3.0 * intermediate);
    let pairs = match pairs {
        AttentionPairs::Full => tokens * tokens,
        AttentionPairs::Causal => tokens * (tokens + 1.0) / 2.0,
    };
    let head = match head {
        OutputHead::EveryPosition => 2.0 * tokens * hidden * vocabulary,
        OutputHead::Positions(count) => 2.0 * count as f64 * hidden * vocabulary,
        OutputHead::None => 0.0,
    };
    shape.layers as f64 * (2.0 * tokens * weights + 4.0 * query_width * pairs) + head
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L = 2, d = 4, T = 3: 2·[(4 + 4·m)·3·16 + 2·9·4]; m = 2 gives 2·(576 + 72), m = 4 gives 2·(960 + 72), m = 2.5
    /// gives 2·(672 + 72).
    #[test]
    fn the_originals_count_by_hand() {
        assert_eq!(flops_per_sequence_original(2, 4, Some(8), 3), 1296.0);
        assert_eq!(flops_per_sequence_original(2, 4, None, 3), 2064.0);
        assert_eq!(flops_per_sequence_original(2, 4, Some(10), 3), 1488.0);
    }

    /// hidden 8, 4 heads of 3 with 2 for keys and values, MLP 16, vocabulary 32, 2 layers, T = 5.
    /// Weights a layer: q 96, o 96, k 48, v 48, MLP 3·128: 672. Linear: 2·5·672 = 6720 a layer.
    /// Attention: 4·4·3·25 = 1200 full, 4·4·3·15 = 720 causal. Head: 2·5·256 = 2560.
    #[test]
    fn the_exact_count_by_hand() {
        let shape = DecoderShape {
            layers: 2,
            hidden: 8,
            intermediate: 16,
            heads: 4,
            kv_heads: 2,
            head_dim: 3,
            vocabulary: 32,
        };
        let count = |pairs, head| flops_per_sequence_exact(&shape, 5, pairs, head);
        assert_eq!(
            count(AttentionPairs::Full, OutputHead::None),
            2.0 * (6720.0 + 1200.0)
        );
        assert_eq!(
            count(AttentionPairs::Causal, OutputHead::None),
            2.0 * (6720.0 + 720.0)
        );
        assert_eq!(
            count(AttentionPairs::Full, OutputHead::EveryPosition),
            2.0 * (6720.0 + 1200.0) + 2560.0
        );
        assert_eq!(
            count(AttentionPairs::Causal, OutputHead::Positions(2)),
            2.0 * (6720.0 + 720.0) + 2.0 * 512.0
        );
    }

    /// The default model's linear layers by its checkpoint: 6 layers of q and o 384 × 384, k and v 128 × 384, MLP
    /// 3 × 1024 × 384, and a head of 4096 × 384: 9,437,184 + 1,572,864 weights.
    #[test]
    fn one_token_costs_two_operations_a_weight() {
        let shape = DecoderShape {
            layers: 6,
            hidden: 384,
            intermediate: 1024,
            heads: 6,
            kv_heads: 2,
            head_dim: 64,
            vocabulary: 4096,
        };
        let attention = 6.0 * 4.0 * 384.0;
        let found = flops_per_sequence_exact(&shape, 1, AttentionPairs::Causal, OutputHead::EveryPosition);
        assert_eq!(found, 2.0 * (9_437_184.0 + 1_572_864.0) + attention);
    }
}
