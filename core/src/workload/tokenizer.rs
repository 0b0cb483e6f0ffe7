use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::Value;
use tokenizers::{PostProcessor, TruncationParams};

use super::WorkloadError;
use crate::bounded;

/// A sequence as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenisedSequence {
    /// Index of the sequence in its data set.
    pub index: usize,
    /// Token ids, the special ones included, without padding.
    pub ids: Vec<u32>,
    /// Bases that the kept tokens stand for.
    pub bases: usize,
    /// Bases that were tokenised: more than `bases` where tokens were cut off.
    pub length_bp: usize,
    /// Whether tokens were cut off.
    pub truncated: bool,
}

/// The tokenizer of a model directory.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pad_id: u32,
}

impl Tokenizer {
    /// Loads `tokenizer.json`. The id of padding is that of `pad_token` in `tokenizer_config.json`, else `pad_token_id`
    /// in `config.json`, else that of `[PAD]`, else the end-of-sequence token's in the same order of files, else 0:
    /// padding is masked, so that its id only has to be one of the vocabulary.
    ///
    /// # Errors
    /// `tokenizer.json` is missing or not a tokenizer; one of the other two is there and no JSON.
    pub fn from_directory(directory: &Path) -> Result<Self, WorkloadError> {
        let path = directory.join("tokenizer.json");
        let bytes = bounded::read(&path, bounded::LIST).map_err(|source| WorkloadError::Io {
            path: path.clone(),
            source,
        })?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(|source| WorkloadError::Tokenizer { path, source })?;
        inner.with_padding(None);

        let tokenizer_config = read_json(&directory.join("tokenizer_config.json"))?;
        let config = read_json(&directory.join("config.json"))?;
        let token = |name: &str| inner.token_to_id(token_text(&tokenizer_config[name])?);
        let pad_id = token("pad_token")
            .or_else(|| first_id(&config["pad_token_id"]))
            .or_else(|| inner.token_to_id("[PAD]"))
            .or_else(|| token("eos_token"))
            .or_else(|| first_id(&config["eos_token_id"]))
            .unwrap_or(0);
        Ok(Self { inner, pad_id })
    }

    /// The id that fills a batch.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Number of tokens, added ones included; every id is smaller.
    pub fn vocabulary_size(&self) -> usize {
        let largest = self.inner.get_vocab(true).into_values().max();
        largest.map_or(0, |id| id as usize + 1)
    }

    /// Bases (A C G T N) that a token is written as; 0 for special tokens.
    ///
    /// # Errors
    /// The tokenizer cannot decode the token.
    pub fn bases_of(&self, token: u32) -> Result<u64, WorkloadError> {
        let text = guarded(|| self.inner.decode(&[token], true))
            .map_err(|source| WorkloadError::Detokenise { token, source })?;
        Ok(text
            .chars()
            .filter(|letter| "ACGTN".contains(letter.to_ascii_uppercase()))
            .count() as u64)
    }

    /// This tokenizer for whole windows of at most `limit` tokens, the special ones included.
    ///
    /// # Errors
    /// The special tokens leave no room.
    pub fn windows(&self, limit: usize) -> Result<WindowTokenizer, WorkloadError> {
        Ok(WindowTokenizer {
            inner: self.limited(limit)?,
            limit,
        })
    }

    /// This tokenizer with its own truncation set to `limit` tokens a sequence, the special ones included.
    ///
    /// # Errors
    /// The special tokens leave no room.
    pub(super) fn limited(&self, limit: usize) -> Result<LimitedTokenizer, WorkloadError> {
        let special = self
            .inner
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(false));
        if limit <= special {
            return Err(WorkloadError::LimitTooSmall { limit, special });
        }
        let mut inner = self.inner.clone();
        inner
            .with_truncation(Some(TruncationParams {
                max_length: limit,
                ..Default::default()
            }))
            .expect("only a stride beyond the limit is refused, and it is 0");
        Ok(LimitedTokenizer(inner))
    }
}

/// A tokenizer that truncates.
pub(super) struct LimitedTokenizer(tokenizers::Tokenizer);

impl LimitedTokenizer {
    pub(super) fn tokenise(&self, index: usize, bases: &str) -> Result<TokenisedSequence, tokenizers::Error> {
        let encoding = guarded(|| self.0.encode(bases, true))?;
        Ok(TokenisedSequence {
            index,
            bases: covered_bases(encoding.get_offsets()),
            length_bp: bases.len(),
            truncated: !encoding.get_overflowing().is_empty(),
            ids: encoding.get_ids().to_vec(),
        })
    }
}

/// A window as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenisedWindow {
    /// Token ids, the special ones included.
    pub ids: Vec<u32>,
    /// Whether each token stands for bases; special ones do not.
    pub bases: Vec<bool>,
}

/// A tokenizer that cuts nothing off.
pub struct WindowTokenizer {
    inner: LimitedTokenizer,
    limit: usize,
}

impl WindowTokenizer {
    /// Tokenises all of a window.
    ///
    /// # Errors
    /// The tokenizer refuses the window, or it has more tokens than the limit.
    pub fn tokenise(&self, window: &str) -> Result<TokenisedWindow, WorkloadError> {
        let encoding = guarded(|| self.inner.0.encode(window, true))
            .map_err(|source| WorkloadError::TokeniseWindow { source })?;
        if !encoding.get_overflowing().is_empty() {
            return Err(WorkloadError::WindowTooLong {
                bases: window.len(),
                limit: self.limit,
            });
        }
        let bases = encoding.get_offsets().iter().map(|(start, end)| end > start);
        Ok(TokenisedWindow {
            bases: bases.collect(),
            ids: encoding.get_ids().to_vec(),
        })
    }
}

/// The library's answer, or its panic as its error: it panics at some files that say what no tokenizer can do.
fn guarded<T>(call: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, tokenizers::Error> {
    // Whatever the call leaves half done is dropped with the error.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let words =
            (panic.downcast_ref::<String>().map(String::as_str)).or(panic.downcast_ref::<&str>().copied());
        Err(format!(
            "the tokenizers library panicked: {}",
            words.unwrap_or("it did not say why")
        )
        .into())
    })
}

/// Bases under the kept tokens, each counted once also where tokens overlap (overlapping k-mers). The special tokens'
/// offsets are empty, (0, 0).
fn covered_bases(offsets: &[(usize, usize)]) -> usize {
    let mut covered = 0;
    let mut end_so_far = 0;
    for &(start, end) in offsets {
        covered += end.saturating_sub(start.max(end_so_far));
        end_so_far = end_so_far.max(end);
    }
    covered
}

/// The file's content; null when there is no such file.
fn read_json(path: &Path) -> Result<Value, WorkloadError> {
    match bounded::read(path, bounded::DESCRIPTION) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| WorkloadError::Json {
            path: path.to_owned(),
            source,
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Value::Null),
        Err(source) => Err(WorkloadError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A token is written as its text or as an object with the text in `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// An id is written as a number or as a list of numbers.
fn first_id(value: &Value) -> Option<u32> {
    value
        .as_u64()
        .or_else(|| value[0].as_u64())
        .and_then(|id| u32::try_from(id).ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    fn model() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/go-mini-12m")
    }

    #[test]
    fn the_default_models_tokenizer_loads() {
        let tokenizer = Tokenizer::from_directory(&model()).unwrap();
        assert_eq!(tokenizer.pad_id(), 3);
        assert_eq!(tokenizer.vocabulary_size(), 4096);
    }

    /// Expected ids from the Python package tokenizers 0.23.3 on the same text.
    #[test]
    fn ids_and_truncation_are_the_python_packages() {
        let tokenizer = Tokenizer::from_directory(&model()).unwrap();
        let text = "CTCAACGTCGCTTGGCCCAAGCGAGGTGACGCCAGGGCTTCTGACCAGCCATATGTCGTA";
        let whole = tokenizer.limited(1024).unwrap().tokenise(5, text).unwrap();
        assert_eq!(
            whole.ids,
            [1, 6, 260, 3198, 3942, 70, 785, 58, 2139, 524, 58, 1348, 41, 2]
        );
        assert_eq!(
            (whole.index, whole.bases, whole.length_bp, whole.truncated),
            (5, 60, 60, false)
        );
        let exact = tokenizer.limited(14).unwrap().tokenise(5, text).unwrap();
        assert_eq!(exact, whole);
        let cut = tokenizer.limited(8).unwrap().tokenise(5, text).unwrap();
        assert_eq!(cut.ids, [1, 6, 260, 3198, 3942, 70, 785, 2]);
        assert_eq!((cut.bases, cut.length_bp, cut.truncated), (30, 60, true));
        let ambiguous = tokenizer
            .limited(1024)
            .unwrap()
            .tokenise(0, "ACGTNNACGT")
            .unwrap();
        assert_eq!(ambiguous.ids, [1, 678, 643, 8, 8, 678, 643, 2]);
        assert_eq!(ambiguous.bases, 10);
    }

    #[test]
    fn a_window_is_tokenised_whole_or_not_at_all() {
        let tokenizer = Tokenizer::from_directory(&model()).unwrap();
        let window = tokenizer.windows(8).unwrap().tokenise("ACGTNNACGT").unwrap();
        assert_eq!(window.ids, [1, 678, 643, 8, 8, 678, 643, 2]);
        assert_eq!(window.bases, [false, true, true, true, true, true, true, false]);
        let error = tokenizer.windows(7).unwrap().tokenise("ACGTNNACGT").unwrap_err();
        assert_eq!(
            error.to_string(),
            "a window of 10 bases has more than the limit of 7 tokens: use a smaller --window-bp"
        );
    }

    #[test]
    fn overlapping_tokens_count_a_base_once() {
        // [CLS], three overlapping 6-mers, a gap, [SEP].
        assert_eq!(
            covered_bases(&[(0, 0), (0, 6), (1, 7), (2, 8), (10, 13), (0, 0)]),
            11
        );
    }

    #[test]
    fn a_limit_must_leave_room_for_a_token() {
        let tokenizer = Tokenizer::from_directory(&model()).unwrap();
        for limit in 0..3 {
            let error = tokenizer.limited(limit).map(|_| ()).unwrap_err();
            assert!(
                matches!(error, WorkloadError::LimitTooSmall { special: 2, .. }),
                "{error}"
            );
        }
        assert_eq!(
            tokenizer.limited(3).unwrap().tokenise(0, "ACGTACGT").unwrap().ids,
            [1, 678, 2]
        );
    }

    /// The directory of a model with these two files beside the default tokenizer.
    fn directory(tokenizer_config: &str, config: &str) -> TempDir {
        let directory = TempDir::new().unwrap();
        fs::copy(
            model().join("tokenizer.json"),
            directory.path().join("tokenizer.json"),
        )
        .unwrap();
        fs::write(directory.path().join("tokenizer_config.json"), tokenizer_config).unwrap();
        fs::write(directory.path().join("config.json"), config).unwrap();
        directory
    }

    #[test]
    fn the_pad_id_is_looked_up_in_order() {
        for (tokenizer_config, config, expected) in [
            (r#"{"pad_token": "[MASK]"}"#, r#"{"pad_token_id": 0}"#, 4),
            (r#"{"pad_token": {"content": "[MASK]"}}"#, "{}", 4),
            (r#"{"pad_token": null}"#, r#"{"pad_token_id": 0}"#, 0),
            (r#"{"eos_token": "[SEP]"}"#, r#"{"pad_token_id": null}"#, 3),
        ] {
            let directory = directory(tokenizer_config, config);
            assert_eq!(
                Tokenizer::from_directory(directory.path()).unwrap().pad_id(),
                expected
            );
        }
        // Without [PAD]: the end-of-sequence token, else 0.
        for (tokenizer_config, config, expected) in [
            (r#"{"eos_token": "[SEP]"}"#, r#"{"eos_token_id": [7, 8]}"#, 2),
            ("{}", r#"{"eos_token_id": [7, 8]}"#, 7),
            ("{}", "{}", 0),
        ] {
            let directory = directory(tokenizer_config, config);
            let path = directory.path().join("tokenizer.json");
            let renamed = fs::read_to_string(&path).unwrap().replace("[PAD]", "[XXX]");
            fs::write(&path, renamed).unwrap();
            assert_eq!(
                Tokenizer::from_directory(directory.path()).unwrap().pad_id(),
                expected
            );
        }
    }

    #[test]
    fn missing_and_broken_files_are_named() {
        let message = |directory: &Path| {
            Tokenizer::from_directory(directory)
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        let empty = TempDir::new().unwrap();
        assert!(message(empty.path()).ends_with("tokenizer.json`"));
        fs::write(empty.path().join("tokenizer.json"), "{}").unwrap();
        assert!(message(empty.path()).starts_with("cannot load the tokenizer"));
        assert!(message(directory("{", "{}").path()).contains("tokenizer_config.json` as JSON"));
    }
}
