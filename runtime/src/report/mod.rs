//! What a run looks like: one HTML page with charts, crops, settings and a judgement, for one run or several.

mod chart;
mod health;
mod page;
mod record;

pub use page::html;
pub use record::RunRecord;

#[cfg(test)]
mod tests;
