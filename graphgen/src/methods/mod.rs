//! Self-supervised methods: a preset → the graph of one training step.

pub mod accumulation;
pub mod loss_scaling;
mod statistics;
pub mod supervised;
pub mod swav;
