//! `graphgen inspect`: what an ONNX file holds.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use graphgen::onnx::{Inspection, Size, inspect, read_model};

/// Show inputs, outputs, operators, parameters and cost of an ONNX file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// ONNX file.
    file: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read or is no ONNX model.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let context = || format!("reading {}", args.file.display());
    let bytes = std::fs::read(&args.file).with_context(context)?;
    let inspection = inspect(&read_model(&bytes).with_context(context)?);
    match report(&mut std::io::stdout().lock(), &inspection) {
        // `graphgen inspect FILE | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn report(out: &mut impl Write, inspection: &Inspection) -> std::io::Result<()> {
    let opsets: Vec<String> = inspection.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
    writeln!(out, "format      IR {}, {}", inspection.ir_version, opsets.join(", "))?;
    writeln!(out, "producer    {}", if inspection.producer.is_empty() { "-" } else { &inspection.producer })?;
    writeln!(out, "parameters  {}", size(inspection.parameters))?;
    writeln!(out, "state       {}", size(inspection.state))?;
    writeln!(out, "constants   {}", size(inspection.initializers))?;

    let cost = inspection.cost;
    let without = |count: usize, what: &str| if count == 0 { String::new() } else { format!(", without {count} {what} whose shapes are not static") };
    let products = without(cost.unknown_products, "convolutions and products");
    writeln!(out, "compute     {} a run in convolutions and matrix products (a multiply-add is 2){products}", decimal(cost.flops, "FLOP"))?;
    let values = without(cost.unknown_values, "values");
    writeln!(out, "activations {} at the peak, an estimate: file order, no scratch memory{values}", decimal(cost.activation_bytes, "B"))?;

    for (title, tensors) in [("inputs", &inspection.inputs), ("outputs", &inspection.outputs)] {
        writeln!(out, "\n{title} ({})", tensors.len())?;
        let width = tensors.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, ty) in tensors {
            writeln!(out, "  {name:width$}  {ty}")?;
        }
    }
    operators(out, "operators", &inspection.operators)?;
    if inspection.functions > 0 {
        operators(out, &format!("operators with the {} functions expanded", inspection.functions), &inspection.expanded)?;
    }
    if !inspection.metadata.is_empty() {
        writeln!(out, "\nmetadata")?;
    }
    for (key, value) in &inspection.metadata {
        writeln!(out, "  {key}: {value}")?;
    }
    Ok(())
}

/// The most frequent first.
fn operators(out: &mut impl Write, title: &str, counts: &BTreeMap<String, usize>) -> std::io::Result<()> {
    writeln!(out, "\n{title} ({})", counts.values().sum::<usize>())?;
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
    for (name, count) in sorted {
        writeln!(out, "  {count:6}  {name}")?;
    }
    Ok(())
}

fn size(size: Size) -> String {
    format!("{} elements in {} tensors, {}", size.elements, size.tensors, decimal(size.bytes, "B"))
}

/// `12.3 MB`: powers of 1000.
fn decimal(value: u64, unit: &str) -> String {
    let prefixes = ["", "k", "M", "G", "T", "P"];
    let mut scaled = value as f64;
    let mut prefix = 0;
    while scaled >= 1000.0 && prefix + 1 < prefixes.len() {
        scaled /= 1000.0;
        prefix += 1;
    }
    if prefix == 0 { format!("{value} {unit}") } else { format!("{scaled:.1} {}{unit}", prefixes[prefix]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_a_thousand() {
        assert_eq!(decimal(999, "B"), "999 B");
        assert_eq!(decimal(94_000_000, "B"), "94.0 MB");
        assert_eq!(decimal(8_200_000_000, "FLOP"), "8.2 GFLOP");
    }
}
