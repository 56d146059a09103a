//! Where ONNX Runtime put the nodes of a graph, read from what a session logs while it is created.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ort::logging::{LogLevel, LoggerFunction};

/// A node, as ONNX Runtime names it after it has expanded functions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlacedNode {
    /// Operator.
    pub operator: String,
    /// Name; may be empty.
    pub name: String,
}

/// The nodes of a session, by ONNX Runtime's names of providers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Number of nodes of each provider.
    pub counts: BTreeMap<String, usize>,
    /// Nodes of each provider; of a graph that lies on one provider as a whole ONNX Runtime logs the number only.
    pub nodes: BTreeMap<String, Vec<PlacedNode>>,
}

impl Placement {
    /// Nodes that lie elsewhere than on a provider, except operators that are allowed to.
    pub fn elsewhere(&self, provider: &str, allowed: &[String]) -> Vec<&PlacedNode> {
        let others = self.nodes.iter().filter(|(name, _)| *name != provider).flat_map(|(_, nodes)| nodes);
        others.filter(|node| !allowed.contains(&node.operator)).collect()
    }

    /// Whether the log said anything about placement.
    pub fn is_known(&self) -> bool {
        !self.counts.is_empty()
    }

    /// Takes in one message of the log.
    fn read(&mut self, message: &str, current: &mut Option<String>) {
        let message = message.trim();
        if let Some(rest) = message.strip_prefix("All nodes placed on [").or_else(|| message.strip_prefix("Node(s) placed on [")) {
            let (provider, rest) = rest.split_once(']').unwrap_or((rest, ""));
            let count = rest.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
            *self.counts.entry(provider.to_owned()).or_default() += count;
            *current = message.starts_with("Node(s)").then(|| provider.to_owned());
        } else if let (Some(provider), Some((operator, name))) = (current.as_ref(), message.split_once(" (")) {
            let name = name.strip_suffix(')').unwrap_or(name);
            let node = PlacedNode { operator: operator.to_owned(), name: name.to_owned() };
            self.nodes.entry(provider.clone()).or_default().push(node);
        } else {
            *current = None;
        }
    }
}

/// Listens to a session's log while the session is created.
#[derive(Default)]
pub(super) struct Listener(Arc<Mutex<(Placement, Option<String>)>>);

/// The function of ONNX Runtime that logs placement.
const SOURCE: &str = "VerifyEachNodeIsAssignedToAnEp";

impl Listener {
    /// The logger for a session whose level is verbose. Warnings and errors go on into the program's log.
    pub(super) fn logger(&self) -> LoggerFunction {
        let state = self.0.clone();
        Arc::new(move |level, _category, _id, location, message| {
            if location.contains(SOURCE) {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                let (placement, current) = &mut *state;
                placement.read(message, current);
            }
            match level {
                LogLevel::Error | LogLevel::Fatal => tracing::error!("ONNX Runtime: {message}"),
                LogLevel::Warning => tracing::warn!("ONNX Runtime: {message}"),
                LogLevel::Info | LogLevel::Verbose => {}
            }
        })
    }

    /// What was heard.
    pub(super) fn placement(&self) -> Placement {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Placement {
        let (mut placement, mut current) = (Placement::default(), None);
        lines.iter().for_each(|line| placement.read(line, &mut current));
        placement
    }

    #[test]
    fn nodes_elsewhere_are_named() {
        let placement = read(&[
            "Node placements",
            " Node(s) placed on [CUDAExecutionProvider]. Number of nodes: 2",
            "  Conv (layer1.0.conv1/Conv)",
            "  Relu ()",
            " Node(s) placed on [CPUExecutionProvider]. Number of nodes: 2",
            "  MaxUnpool (pool/MaxUnpool)",
            "  SinkhornKnopp (codes/SinkhornKnopp)",
        ]);
        assert_eq!(placement.counts, BTreeMap::from([("CUDAExecutionProvider".to_owned(), 2), ("CPUExecutionProvider".to_owned(), 2)]));
        let allowed = ["SinkhornKnopp".to_owned()];
        let elsewhere = placement.elsewhere("CUDAExecutionProvider", &allowed);
        assert_eq!(elsewhere, [&PlacedNode { operator: "MaxUnpool".into(), name: "pool/MaxUnpool".into() }]);
    }

    #[test]
    fn a_graph_on_one_provider_is_counted() {
        let placement = read(&["Node placements", " All nodes placed on [CPUExecutionProvider]. Number of nodes: 17"]);
        assert_eq!(placement.counts["CPUExecutionProvider"], 17);
        assert!(placement.is_known() && placement.elsewhere("CPUExecutionProvider", &[]).is_empty());
        assert!(!read(&["Node placements"]).is_known());
    }
}
