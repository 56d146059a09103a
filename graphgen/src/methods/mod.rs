//! Self-supervised methods: a preset → the graph of one training step.

pub mod accumulation;
mod statistics;
pub mod swav;
