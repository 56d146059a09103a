//! Files against networks.

use std::io::Cursor;

use super::super::safetensors::serialize;
use super::*;
use crate::artifacts::network_shapes;
use crate::preset::Preset;
use crate::weights::{WeightTensor, to_safetensors};

/// The network of `official.*.pth.tar`.
fn network(overrides: &[&str]) -> Shapes {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    let toml = "[model]\narch = 'resnet10'\nwidth = 1\nstem = 'small'\nhidden_mlp = 4\nfeat_dim = 3\nnmb_prototypes = 5\n\
                [crops]\nsize_crops = [32]\nnmb_crops = [2]\nmin_scale_crops = [0.1]\nmax_scale_crops = [1.0]\n";
    network_shapes(&Preset::from_toml(toml, &overrides).expect("valid")).expect("a network")
}

fn official(format: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/golden/weights/official.{format}.pth.tar"))
}

/// Weights that fit a network; each tensor holds its own number.
fn weights_of(network: &Shapes) -> Weights {
    let tensor = |(number, (name, shape)): (usize, (&String, &Vec<usize>))| {
        (name.clone(), WeightTensor { shape: shape.clone(), data: vec![number as f32; shape.iter().product()] })
    };
    network.iter().enumerate().map(tensor).collect()
}

fn import_weights(weights: &Weights, network: &Shapes) -> Result<Import, WeightsError> {
    let bytes = to_safetensors(weights, &BTreeMap::new());
    import_from(&mut WeightsFile::from_reader(Path::new("file"), Cursor::new(bytes))?, network)
}

fn zeros(shape: &[usize]) -> WeightTensor {
    WeightTensor { shape: shape.to_vec(), data: vec![0.0; shape.iter().product()] }
}

#[test]
fn the_official_layout_is_taken_whole() {
    let network = network(&[]);
    let [zip, legacy] = ["zip", "legacy"].map(|format| import(&official(format), &network).expect("fits"));
    assert_eq!(zip, legacy);
    assert_eq!(zip.report, ImportReport { taken: network.len(), fresh: vec![], unused: vec![], not_tensors: vec![] });
    assert!(zip.weights.iter().all(|(name, tensor)| tensor.shape == network[name]) && zip.weights.len() == network.len());
    // Number 81 of the generator's formula.
    assert_eq!(zip.weights["prototypes.weight"].data[..2], [(31 * 81 % 101) as f32 / 16.0 - 50.0 / 16.0, ((31 * 81 + 7) % 101) as f32 / 16.0 - 50.0 / 16.0]);
}

#[test]
fn a_head_of_another_size_keeps_its_fresh_values_and_is_reported() {
    let network = network(&["model.nmb_prototypes=7"]);
    let imported = import(&official("legacy"), &network).expect("the backbone fits");
    assert!(!imported.weights.contains_key("prototypes.weight") && imported.weights.contains_key("projection_head.3.bias"));
    assert_eq!(
        imported.report.lines(),
        [format!("{} tensors taken", network.len() - 1), "prototypes.weight: expected [7, 3], found [5, 3]; keeps its fresh initial values".to_owned(),]
    );
}

#[test]
fn a_projection_head_is_taken_as_a_whole_or_not_at_all() {
    let network = network(&["model.hidden_mlp=6"]);
    let imported = import(&official("zip"), &network).expect("the backbone fits");
    assert!(imported.weights.keys().all(|name| !name.starts_with("projection_head")));
    assert!(imported.weights.contains_key("prototypes.weight"));
    let lines = imported.report.lines();
    assert_eq!(lines.len(), 1 + 8, "{lines:?}");
    assert!(lines.contains(&"projection_head.1.running_mean: expected [6], found [4]; keeps its fresh initial values".to_owned()), "{lines:?}");
    let fits = "projection_head.3.bias: found [3] as expected, but the rest of the projection head does not fit; keeps its fresh initial values";
    assert!(lines.contains(&fits.to_owned()), "{lines:?}");
}

#[test]
fn torchvision_weights_have_no_head_and_a_classifier_that_is_not_used() {
    let network = network(&[]);
    let mut weights = weights_of(&network);
    weights.retain(|name, _| is_trunk(name));
    weights.insert("fc.weight".into(), zeros(&[10, 8]));
    weights.insert("fc.bias".into(), zeros(&[10]));
    let imported = import_weights(&weights, &network).expect("the backbone fits");
    assert_eq!(imported.weights.len(), weights.len() - 2);
    let lines = imported.report.lines();
    assert!(lines.contains(&"fc.weight: [10, 8] in the file is not used".to_owned()), "{lines:?}");
    assert!(lines.contains(&"prototypes.weight: expected [5, 3], found none; keeps its fresh initial values".to_owned()), "{lines:?}");
    assert!(imported.weights["bn1.running_var"] == weights["bn1.running_var"]);
}

#[test]
fn counters_are_passed_over_and_other_integers_refused() {
    let network = network(&[]);
    let mut weights = weights_of(&network);
    let import = |weights: &Weights, counter: &str| {
        let bytes = serialize(weights, &BTreeMap::from([(counter.to_owned(), 3)]), &BTreeMap::new());
        import_from(&mut WeightsFile::from_reader(Path::new("file"), Cursor::new(bytes)).expect("readable"), &network)
    };
    assert_eq!(import(&weights, "bn1.num_batches_tracked").expect("fits").report.unused, []);
    assert_eq!(import(&weights, "step").expect("fits").report.unused, [UnusedTensor { name: "step".into(), shape: vec![] }]);
    weights.remove("bn1.bias");
    // One channel, but a scalar; then with the right shape, of a wrong type.
    assert!(import(&weights, "bn1.bias").expect_err("a scalar").to_string().contains("bn1.bias: expected [1], found []"));
}

#[test]
fn a_backbone_that_does_not_fit_is_an_error_that_lists_what_misses() {
    let network = network(&[]);
    let refused = |change: &dyn Fn(&mut Weights)| {
        let mut weights = weights_of(&network);
        change(&mut weights);
        import_weights(&weights, &network).expect_err("refused").to_string()
    };
    let error = refused(&|weights| drop(weights.insert("conv1.weight".into(), zeros(&[1, 3, 7, 7]))));
    assert!(error.contains("(1 tensors): conv1.weight: expected [1, 3, 3, 3], found [1, 3, 7, 7]. Choose"), "{error}");
    let error = refused(&|weights| drop(weights.remove("layer2.0.bn1.running_mean")));
    assert!(error.contains("layer2.0.bn1.running_mean: expected [2], found none"), "{error}");
    // A deeper network of the same width holds every tensor of this one.
    let error = refused(&|weights| drop(weights.insert("layer1.1.conv1.weight".into(), zeros(&[1, 1, 3, 3]))));
    assert!(error.contains("layer1.1.conv1.weight: the network has no such tensor"), "{error}");
    let error = refused(&|weights| drop(weights.insert("module.bn1.bias".into(), zeros(&[1]))));
    assert!(error.contains("both bn1.bias and module.bn1.bias"), "{error}");
}

#[test]
fn a_file_of_something_else_says_what_was_expected_and_found() {
    let network = network(&[]);
    let weights = Weights::from([("encoder.weight".to_owned(), zeros(&[3])), ("decoder.bias".to_owned(), zeros(&[3]))]);
    let error = import_weights(&weights, &network).expect_err("nothing fits").to_string();
    assert!(error.contains("expected bn1.bias, ") && error.contains(" more; found decoder.bias, encoder.weight"), "{error}");
}

#[test]
fn a_safetensors_header_may_look_like_a_pickle() {
    // A header of 640 = 0x0280 bytes begins as a pickle of protocol 2 does.
    let network = network(&[]);
    let weights = Weights::from([("encoder.weight".to_owned(), zeros(&[3]))]);
    let short = to_safetensors(&weights, &BTreeMap::new());
    let length = u64::from_le_bytes(short[..8].try_into().expect("eight bytes"));
    let padding = BTreeMap::from([("a".to_owned(), "x".repeat(640 - length as usize - 27))]);
    let bytes = to_safetensors(&weights, &padding);
    assert_eq!(bytes[..9], *b"\x80\x02\0\0\0\0\0\0{");
    let mut file = WeightsFile::from_reader(Path::new("file"), Cursor::new(bytes)).expect("readable");
    assert!(import_from(&mut file, &network).expect_err("another network").to_string().contains("found encoder.weight"));
    assert_eq!(file.read("encoder.weight").expect("read"), weights["encoder.weight"]);
}

#[test]
fn damaged_safetensors_files_are_refused() {
    let bytes = to_safetensors(&weights_of(&network(&[])), &BTreeMap::new());
    let open = |bytes: &[u8]| WeightsFile::from_reader(Path::new("file"), Cursor::new(bytes.to_vec())).map(|_| ());
    open(&bytes).expect("whole");
    for length in (0..bytes.len()).step_by(7) {
        open(&bytes[..length]).expect_err("cut");
    }
    let error = open(&[&bytes[..], b"more"].concat()).expect_err("longer").to_string();
    assert!(error.contains("its header describes"), "{error}");
    let mut longer = bytes.clone();
    longer[2] = 0x7f;
    assert!(open(&longer).expect_err("a long header").to_string().contains("the whole file has"));
    for position in 0..600 {
        let mut changed = bytes.clone();
        changed[position] ^= 0x11;
        let _ = open(&changed);
    }
}

#[test]
fn values_that_are_not_finite_are_refused_by_name() {
    let network = network(&[]);
    for (name, value) in [("layer1.0.conv1.weight", f32::NAN), ("prototypes.weight", f32::INFINITY), ("bn1.running_var", f32::NEG_INFINITY)] {
        let mut weights = weights_of(&network);
        weights.get_mut(name).expect("in the network").data[0] = value;
        let error = import_weights(&weights, &network).expect_err("refused").to_string();
        assert!(error.contains(name) && error.contains(&format!("{value} at place 0")), "{error}");
    }
}
