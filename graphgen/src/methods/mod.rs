//! Self-supervised methods: a preset → the graph of one training step.

mod statistics;
pub mod swav;
