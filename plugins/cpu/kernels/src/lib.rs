//! Matrix products on the CPU, for rows of weights in f32, bf16 and signed bytes, by the best instructions at hand.
//!
//! A product `out = x · Wᵀ` is cut into panels of weight rows by its caller. Tokens and panels are interleaved
//! ([`Interleaved`]) so that one instruction takes one step of the inner dimension for 16 outputs, then multiplied
//! ([`multiply`]). How a sum is ordered depends on the shapes and the instruction set alone, never on threads.

pub mod attention;
pub mod codebook;
mod dots;
mod instruction_set;
mod interleaved;
pub mod matrix;
mod operand;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use dots::{DOT_TOKENS, can_dot, dots};
pub use instruction_set::{InstructionSet, VARIABLE};
pub use interleaved::{Interleaved, PANEL_LANES, TOKEN_LANES, fill};
pub use operand::Operand;
pub use tile::{PanelPart, Sum, multiply};
