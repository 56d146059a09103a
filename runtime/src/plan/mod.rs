//! Proposes settings for a data set and a machine.

mod facts;
mod measure;
mod proposal;

pub use facts::DataFacts;
pub use measure::{StepCost, measure};
pub use proposal::{Proposal, Reason, networks, propose};
