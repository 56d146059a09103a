//! The presets in `models/`.

use std::path::Path;

use graphgen::preset::Preset;

#[test]
fn every_preset_of_the_project_is_valid() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut count = 0;
    for entry in std::fs::read_dir(models).expect("the folder of presets") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            Preset::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            count += 1;
        }
    }
    assert!(count >= 12, "{count} presets");
}
