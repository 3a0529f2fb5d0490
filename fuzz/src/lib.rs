//! What the fuzzers of whole nodes share: how bytes become choices, who takes part, what a hostile member may say, and
//! the network between them.

pub mod cast;
pub mod input;
pub mod mesh;
pub mod speech;
