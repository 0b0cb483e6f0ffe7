//! Tests of whole models, and what tests share.

pub(crate) mod support;
