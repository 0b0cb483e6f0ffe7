use std::ops::Range;

/// A window over the tokens of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tokens that the model sees.
    pub tokens: Range<usize>,
    /// Those of them that are predicted here, by the logits at the position before each.
    pub predicted: Range<usize>,
}

/// The windows over a sequence of `length` tokens: `context_len` tokens each (the last may be shorter), starting every
/// `stride` tokens. Every token but the first is predicted once, in the first window that has it: at the least from
/// `context_len − stride` tokens before it, but for the start of the sequence. These are the windows of the guide
/// "Perplexity of fixed-length models" of transformers.
///
/// # Panics
/// Unless `stride` is at least 1 and smaller than `context_len`: a token at the start of a window could not be predicted.
pub fn windows(length: usize, context_len: usize, stride: usize) -> Vec<Window> {
    assert!(
        (1..context_len).contains(&stride),
        "a stride from 1 to the window's tokens less 1"
    );
    let mut windows = Vec::new();
    let (mut start, mut done) = (0, 1);
    while done < length {
        let end = (start + context_len).min(length);
        windows.push(Window {
            tokens: start..end,
            predicted: done..end,
        });
        done = end;
        start += stride;
    }
    windows
}
