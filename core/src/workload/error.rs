use std::io;
use std::path::PathBuf;

use super::Condition;

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// A text that is no condition.
    #[error(
        "`{label}` is no condition; expected `full`, `bp=N`, `tok=N` or `bin~N` with N at least 1, such as `bp=10000`"
    )]
    UnknownCondition {
        /// The text.
        label: String,
    },
    /// A condition that leaves nothing of a sequence.
    #[error("condition `{condition}`: the number must be at least 1")]
    ZeroLength {
        /// The condition.
        condition: Condition,
    },
    /// No sequence is left.
    #[error("condition `{condition}` has no sequence: {reason}")]
    Empty {
        /// The condition.
        condition: Condition,
        /// What left none.
        reason: String,
    },
    /// The limit leaves no room for a token of the sequence.
    #[error("a limit of {limit} tokens leaves no room beside the tokenizer's {special} special tokens")]
    LimitTooSmall {
        /// The limit in tokens.
        limit: usize,
        /// Tokens that the tokenizer adds to each sequence.
        special: usize,
    },
    /// More tokens are asked for than the model takes.
    #[error(
        "condition `{condition}` asks for more tokens than the limit of {limit} (the smaller of --max-tokens and \
         the model's max_position_embeddings)"
    )]
    BeyondLimit {
        /// The condition.
        condition: Condition,
        /// The limit in tokens.
        limit: usize,
    },
    /// A file of the model's directory cannot be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the model's directory is no JSON.
    #[error("cannot parse `{}` as JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// No kind of workload has this label.
    #[error("`{label}` is no workload; expected `embed`, `score` or `decode PROMPT+GENERATED`")]
    UnknownKind {
        /// The label.
        label: String,
    },
    /// No sequence is as long as the prompt.
    #[error(
        "no sequence has the {prompt_tokens} tokens of the prompt: the longest has {longest}; use fewer --prompt-tokens"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the longest sequence.
        longest: usize,
    },
    /// `tokenizer.json` is not what the tokenizers library reads.
    #[error("cannot load the tokenizer `{}`", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the library said.
        source: tokenizers::Error,
    },
    /// The tokenizer refused a sequence.
    #[error("cannot tokenise sequence `{fragment_id}` of `{genome_id}`")]
    Tokenise {
        /// The sequence's genome.
        genome_id: String,
        /// The sequence's name within the file.
        fragment_id: String,
        /// What the library said.
        source: tokenizers::Error,
    },
    /// The tokenizer refused a window.
    #[error("cannot tokenise a window")]
    TokeniseWindow {
        /// What the library said.
        source: tokenizers::Error,
    },
    /// The tokenizer does not know a generated token.
    #[error("cannot decode token {token}")]
    Detokenise {
        /// Its id.
        token: u32,
        /// What the library said.
        source: tokenizers::Error,
    },
    /// A window, which must not be cut, does not fit the model.
    #[error("a window of {bases} bases has more than the limit of {limit} tokens: use a smaller --window-bp")]
    WindowTooLong {
        /// Its bases.
        bases: usize,
        /// The limit in tokens.
        limit: usize,
    },
}
