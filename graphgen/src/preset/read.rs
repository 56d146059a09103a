//! Preset files: reading, inheritance, overrides, and writing.

use std::path::Path;

use serde::Deserialize;

use super::validate::LARGEST_INTEGER;
use super::{Preset, PresetError};

impl Preset {
    /// Reads a preset file, its `base` if it names one, and applies `section.key=value` overrides.
    ///
    /// # Errors
    /// An unreadable file, invalid TOML, unknown fields, and settings that cannot work.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Preset, PresetError> {
        let mut table = read_table(path)?;
        if let Some(base) = table.remove("base") {
            let toml::Value::String(base) = base else {
                return Err(PresetError::Parse {
                    origin: path.display().to_string(),
                    message: format!("base: expected the file name of another preset, got {base}"),
                });
            };
            let base = path.parent().unwrap_or(Path::new("")).join(base);
            let mut merged = read_table(&base)?;
            if merged.contains_key("base") {
                return Err(PresetError::NestedBase { path: path.into(), base });
            }
            overlay(&mut merged, table);
            table = merged;
        }
        Self::resolve(table, &path.display().to_string(), overrides)
    }

    /// Reads a preset from text, without a `base`, and applies overrides.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_toml(text: &str, overrides: &[String]) -> Result<Preset, PresetError> {
        Self::resolve(parse_table(text, "preset")?, "preset", overrides)
    }

    fn resolve(mut table: toml::Table, origin: &str, overrides: &[String]) -> Result<Preset, PresetError> {
        // Parsed once before the overrides, so that an error names its true origin.
        let _: Preset = deserialize(table.clone(), origin)?;
        for text in overrides {
            apply_override(&mut table, text)?;
        }
        let origin = if overrides.is_empty() { origin.to_owned() } else { format!("{origin} with --set {}", overrides.join(" --set ")) };
        let preset: Preset = deserialize(table, &origin)?;
        preset.validate()?;
        Ok(preset)
    }

    /// The preset as TOML, every setting written out.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a preset has only TOML types")
    }
}

fn read_table(path: &Path) -> Result<toml::Table, PresetError> {
    let text = std::fs::read_to_string(path).map_err(|reason| PresetError::Read { path: path.into(), reason })?;
    parse_table(&text, &path.display().to_string())
}

fn parse_table(text: &str, origin: &str) -> Result<toml::Table, PresetError> {
    text.parse::<toml::Table>().map_err(|error| {
        let too_large = error.span().and_then(|span| text.get(span)).and_then(beyond_toml).map(|problem| format!("; {problem}"));
        PresetError::Parse { origin: origin.into(), message: format!("{}{}", error.to_string().trim_end(), too_large.unwrap_or_default()) }
    })
}

/// What is wrong with an integer that TOML does not have.
fn beyond_toml(literal: &str) -> Option<String> {
    let is_integer = !literal.is_empty() && literal.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    // No setting is below 0.
    let fits = literal.replace('_', "").parse::<i64>().is_ok();
    (is_integer && !fits).then(|| format!("expected an integer from 0 to {LARGEST_INTEGER}, got {literal}"))
}

fn deserialize(table: toml::Table, origin: &str) -> Result<Preset, PresetError> {
    Preset::deserialize(table).map_err(|error| PresetError::Parse { origin: origin.into(), message: error.to_string().trim_end().to_owned() })
}

/// Lays `top` over `bottom`, section by section and field by field.
fn overlay(bottom: &mut toml::Table, top: toml::Table) {
    for (key, value) in top {
        match (bottom.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            (_, value) => {
                bottom.insert(key, value);
            }
        }
    }
}

fn apply_override(table: &mut toml::Table, text: &str) -> Result<(), PresetError> {
    let malformed = || PresetError::Override { text: text.into() };
    let (path, value) = text.split_once('=').ok_or_else(malformed)?;
    let (section, key) = path.trim().split_once('.').ok_or_else(malformed)?;
    let value = value.trim();
    if let Some(message) = beyond_toml(value) {
        return Err(PresetError::Parse { origin: format!("--set {text}"), message });
    }
    // A bare word is a string: --set model.arch=resnet18.
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    match table.entry(section.trim()).or_insert_with(|| toml::Value::Table(toml::Table::new())) {
        toml::Value::Table(section) => {
            section.insert(key.trim().to_owned(), value);
            Ok(())
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::Arch;

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let error = Preset::from_toml("[loss]\ntemprature = 0.1", &[]).expect_err("unknown field").to_string();
        assert!(error.contains("temprature") && error.contains("temperature"), "{error}");
        let error = Preset::from_toml("[lose]\n", &[]).expect_err("unknown section").to_string();
        assert!(error.contains("lose"), "{error}");
    }

    #[test]
    fn overrides_take_numbers_lists_and_bare_words() {
        let overrides: Vec<String> =
            ["model.arch=resnet18", "optim.base_lr=0.6", "crops.nmb_crops=[2, 4]", "model.nmb_prototypes=[30, 50]"].map(String::from).into();
        let preset = Preset::from_toml("", &overrides).expect("valid");
        assert_eq!(preset.model.arch, Arch::ResNet18);
        assert_eq!(preset.optim.base_lr, 0.6);
        assert_eq!(preset.crops.nmb_crops, [2, 4]);
        assert_eq!(preset.model.nmb_prototypes.parameter_names(), ["prototypes.prototypes0.weight", "prototypes.prototypes1.weight"]);
        assert!(matches!(Preset::from_toml("", &["base_lr=1".into()]), Err(PresetError::Override { .. })));
        let error = Preset::from_toml("", &["optim.lr=1".into()]).expect_err("unknown field").to_string();
        assert!(error.contains("--set optim.lr=1") && error.contains("base_lr"), "{error}");
    }

    #[test]
    fn an_integer_that_toml_does_not_have_is_refused_with_the_range() {
        for seed in ["9223372036854775808", "99999999999999999999"] {
            let file = Preset::from_toml(&format!("[train]\nseed = {seed}"), &[]).expect_err("too large").to_string();
            let option = Preset::from_toml("", &[format!("train.seed={seed}")]).expect_err("too large").to_string();
            for error in [file, option] {
                assert!(error.contains("seed") && error.contains("from 0 to 9223372036854775807") && error.contains(seed), "{error}");
            }
        }
        let largest = Preset::from_toml("", &["train.seed=9223372036854775807".into()]).expect("fits");
        assert_eq!(Preset::from_toml(&largest.to_toml(), &[]).expect("valid"), largest);
        // A manifest in JSON may hold it.
        let mut beyond = largest;
        beyond.train.seed += 1;
        assert!(beyond.validate().expect_err("too large").to_string().contains("from 0 to 9223372036854775807"));
    }

    #[test]
    fn a_base_is_inherited_one_level() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("a.toml"), "[optim]\nbase_lr = 0.6\nfinal_lr = 0.1").expect("write");
        std::fs::write(dir.path().join("b.toml"), "base = \"a.toml\"\n[optim]\nfinal_lr = 0.2").expect("write");
        std::fs::write(dir.path().join("c.toml"), "base = \"b.toml\"").expect("write");
        let preset = Preset::load(&dir.path().join("b.toml"), &[]).expect("valid");
        assert_eq!((preset.optim.base_lr, preset.optim.final_lr), (0.6, 0.2));
        assert!(matches!(Preset::load(&dir.path().join("c.toml"), &[]), Err(PresetError::NestedBase { .. })));
    }

    #[test]
    fn a_written_preset_reads_back() {
        let preset = Preset::default();
        assert_eq!(Preset::from_toml(&preset.to_toml(), &[]).expect("valid"), preset);
    }
}
