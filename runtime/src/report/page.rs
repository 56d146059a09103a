//! The report: one HTML page that needs nothing else.

use std::collections::BTreeMap;

use base64::Engine;
use serde_json::Value;

use super::RunRecord;
use super::chart::{Chart, Series};
use super::health::{Verdict, findings};
use crate::train::StepMetrics;

const STYLE: &str = include_str!("style.css");

/// Colours of lines that the style sheet has.
const COLOURS: usize = 8;

/// Text in HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A page about one run, or about several side by side.
///
/// # Panics
/// If there is no run.
pub fn html(runs: &[RunRecord]) -> String {
    assert!(!runs.is_empty(), "a report is about at least one run");
    let title = runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ");
    let title = escape(&title);
    let head = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n<title>{title}: training report</title>\n<style>\n{STYLE}</style>\n</head>\n"
    );
    let mut body = format!("<body>\n<header><h1>{title}</h1>\n</header>\n<main>\n");
    body += &overview(runs);
    body += "<section><h2>Course</h2><div class=\"charts\">\n";
    charts(runs).iter().for_each(|chart| body += &(chart.html() + "\n"));
    body += "</div></section>\n";
    body += &crops(runs);
    body += &table("Settings", &runs.iter().map(|run| (&run.name, flat(&serde_json::to_value(&run.preset).unwrap_or_default()))).collect::<Vec<_>>());
    body += &table("Environment", &runs.iter().map(|run| (&run.name, flat(&run.environment))).collect::<Vec<_>>());
    head + &body + "</main>\n</body>\n</html>\n"
}

/// A card for each run: how far it is, and whether it is healthy.
fn overview(runs: &[RunRecord]) -> String {
    let mut html = String::from("<section><h2>Health</h2><div class=\"runs\">\n");
    for (index, run) in runs.iter().enumerate() {
        let last = &run.metrics[run.metrics.len() - 1];
        html += &format!(
            "<article><h3 class=\"c{}\">{}</h3><p>step {}, epoch {} of {}",
            index % COLOURS,
            escape(&run.name),
            last.step,
            last.epoch + 1,
            run.preset.train.epochs
        );
        for (name, value) in [("kNN", latest(run, |metrics| metrics.probe_knn)), ("linear", latest(run, |metrics| metrics.probe_linear))] {
            if let Some((step, accuracy)) = value {
                html += &format!(" · {name} probe {:.1} % at step {step:.0}", 100.0 * accuracy);
            }
        }
        html += "</p><ul class=\"findings\">";
        for finding in findings(run) {
            let (class, word) = match finding.verdict {
                Verdict::Good => ("good", "ok"),
                Verdict::Watch => ("watch", "watch"),
                Verdict::Bad => ("bad", "bad"),
            };
            html += &format!("<li class=\"{class}\"><b>{word}</b> <span>{}</span></li>", escape(&finding.text));
        }
        html += "</ul></article>\n";
    }
    html + "</div></section>\n"
}

fn latest(run: &RunRecord, value: impl Fn(&StepMetrics) -> Option<f64>) -> Option<(f64, f64)> {
    run.points(value).pop()
}

fn charts(runs: &[RunRecord]) -> Vec<Chart> {
    let last = runs.iter().flat_map(|run| &run.metrics).map(|metrics| metrics.step).max().unwrap_or(1);
    let chart = |title, note: &str, value: &dyn Fn(&RunRecord, &StepMetrics) -> Option<f64>| Chart {
        title,
        note: note.into(),
        series: runs
            .iter()
            .enumerate()
            .map(|(index, run)| Series { colour: index % COLOURS, name: run.name.clone(), points: run.points(|metrics| value(run, metrics)) })
            .collect(),
        reference: None,
        logarithmic: false,
        steps: (1.0, last as f64),
    };
    // A reference of settings that all runs share.
    let shared = |value: &dyn Fn(&RunRecord) -> f64, name: &str| {
        let first = value(&runs[0]);
        runs.iter().all(|run| value(run) == first).then(|| (first, name.to_owned()))
    };
    let mean_prototypes = |run: &RunRecord, f: fn(f64) -> f64| {
        let counts = run.preset.model.nmb_prototypes.counts();
        counts.iter().map(|&count| f(count as f64)).sum::<f64>() / counts.len() as f64
    };
    let ln_k = shared(&|run| mean_prototypes(run, f64::ln), "ln K");
    vec![
        Chart {
            reference: ln_k.clone(),
            ..chart("Loss", "Swapped prediction loss, nats. ln K is the loss of uniform predictions.", &|_, metrics| Some(metrics.loss.into()))
        },
        Chart {
            reference: Some((1.0, "collapsed".into())),
            ..chart("Loss / ln K", "Comparable between different numbers of prototypes. At 1 nothing is learned.", &|_, metrics| {
                Some(metrics.loss_over_ln_k.into())
            })
        },
        chart("Probe, kNN", "Share of labelled test images that their nearest neighbours classify correctly.", &|_, metrics| metrics.probe_knn),
        chart("Probe, linear", "The same with a linear classifier on frozen features.", &|_, metrics| metrics.probe_linear),
        Chart {
            reference: ln_k,
            ..chart("Code entropy", "Mean entropy of a sample's code, nats: low means decided codes, ln K uniform ones.", &|_, metrics| {
                metrics.code_entropy.map(f64::from)
            })
        },
        Chart {
            reference: shared(&|run| mean_prototypes(run, |count| count), "K"),
            ..chart("Live prototypes", "Prototypes that are the first choice of some sample of a batch.", &|_, metrics| metrics.live_prototypes.map(f64::from))
        },
        Chart {
            reference: shared(&|run| 1.0 / (run.preset.model.feat_dim as f64).sqrt(), "1/√D: even spread"),
            ..chart("Feature spread", "Standard deviation of the embeddings. Near 0 all images look alike to the network.", &|_, metrics| {
                metrics.feature_std.map(f64::from)
            })
        },
        Chart { logarithmic: true, ..chart("Gradient norm", "L2 norm of all gradients, logarithmic.", &|_, metrics| metrics.grad_norm.map(f64::from)) },
        chart("Learning rate", "", &|_, metrics| Some(metrics.lr)),
        chart("Images/s", "Trained images a second, waiting and checkpoints included.", &|_, metrics| Some(metrics.images_per_sec)),
        chart("Waiting for images, %", "Share of a step's time in which the loader was not ready.", &|run, metrics| {
            Some(100.0 * metrics.data_wait_secs * metrics.images_per_sec / run.preset.train.batch_size as f64)
        }),
        chart("Queue, rows", "Embeddings in the queue; it takes part in the codes once it is full.", &|_, metrics| {
            metrics.queue_filled.map(|rows| rows as f64)
        }),
    ]
}

fn crops(runs: &[RunRecord]) -> String {
    let mut html = String::new();
    for run in runs {
        if let Some(crops) = &run.crops {
            let bytes = base64::engine::general_purpose::STANDARD.encode(crops);
            let caption = format!("{}: a row for each image, a column for each crop, as the network got them in its first step", escape(&run.name));
            html += &format!(
                "<figure><img alt=\"Augmented crops of {}\" src=\"data:image/jpeg;base64,{bytes}\"><figcaption>{caption}</figcaption></figure>\n",
                escape(&run.name)
            );
        }
    }
    if html.is_empty() { html } else { format!("<section><h2>Crops</h2><div class=\"crops\">\n{html}</div></section>\n") }
}

/// Values by `section.key`.
fn flat(value: &Value) -> BTreeMap<String, String> {
    fn walk(prefix: &str, value: &Value, found: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                walk(&name, value, found);
            }),
            Value::Null => {}
            Value::String(text) => drop(found.insert(prefix.into(), text.clone())),
            Value::Array(items) => {
                let items = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), ToOwned::to_owned));
                found.insert(prefix.into(), items.collect::<Vec<_>>().join(", "));
            }
            other => drop(found.insert(prefix.into(), other.to_string())),
        }
    }
    let mut found = BTreeMap::new();
    walk("", value, &mut found);
    found
}

/// A table with a column for each run; rows in which they differ come first and are marked.
fn table(title: &str, columns: &[(&String, BTreeMap<String, String>)]) -> String {
    let keys: std::collections::BTreeSet<&String> = columns.iter().flat_map(|(_, values)| values.keys()).collect();
    if keys.is_empty() {
        return String::new();
    }
    let differs = |key: &String| columns.iter().any(|(_, values)| values.get(key) != columns[0].1.get(key));
    let (different, same): (Vec<&String>, Vec<&String>) = keys.into_iter().partition(|key| differs(key));
    let row = |key: &String, class: &str| {
        let cells: String = columns.iter().map(|(_, values)| format!("<td>{}</td>", escape(values.get(key).map_or("", String::as_str)))).collect();
        format!("<tr{class}><th scope=\"row\">{}</th>{cells}</tr>\n", escape(key))
    };
    let names: String = columns.iter().map(|(name, _)| format!("<th scope=\"col\">{}</th>", escape(name))).collect();
    let head = if columns.len() > 1 { format!("<thead><tr><th></th>{names}</tr></thead>\n") } else { String::new() };
    let rows: String = different.iter().map(|key| row(key, " class=\"differs\"")).chain(same.iter().map(|key| row(key, ""))).collect();
    let note = if different.is_empty() { String::new() } else { format!(" <small>{} differ</small>", different.len()) };
    format!(
        "<section><details{}><summary><h2>{title}{note}</h2></summary><div class=\"scroll\"><table>{head}<tbody>\n{rows}</tbody></table></div></details></section>\n",
        if different.is_empty() { "" } else { " open" }
    )
}
