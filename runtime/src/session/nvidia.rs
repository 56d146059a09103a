//! What NVIDIA's own tool says of a device.

use std::process::{Command, Stdio};

/// Name and memory of the device that CUDA numbers `id`; `None` where `nvidia-smi` is not there or does not know it.
///
/// `CUDA_VISIBLE_DEVICES` renumbers devices for CUDA, not for `nvidia-smi`. Among devices of several kinds CUDA counts the
/// fastest first unless `CUDA_DEVICE_ORDER=PCI_BUS_ID` is set; `nvidia-smi` does not.
pub(super) fn describe(id: u32) -> Option<String> {
    let id = on_bus(id, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref())?;
    let query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader", &format!("--id={id}")];
    let output = Command::new("nvidia-smi").args(query).stdin(Stdio::null()).stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    description(&String::from_utf8_lossy(&output.stdout))
}

/// The number or UUID by which `nvidia-smi` knows what CUDA numbers `id`.
fn on_bus(id: u32, visible: Option<&str>) -> Option<String> {
    match visible {
        None => Some(id.to_string()),
        Some(visible) => visible.split(',').nth(id as usize).map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()),
    }
}

/// One line of `name, memory, driver` in words.
fn description(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.lines().next()?.split(',').map(str::trim).collect();
    let [name, memory, driver] = fields[..] else { return None };
    Some(format!("{name}, {memory}, driver {driver}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_the_numbers_that_cuda_gives_them() {
        assert_eq!(on_bus(1, None).as_deref(), Some("1"));
        assert_eq!(on_bus(0, Some("3, 1")).as_deref(), Some("3"));
        assert_eq!(on_bus(1, Some("3, GPU-8932f937")).as_deref(), Some("GPU-8932f937"));
        assert_eq!(on_bus(2, Some("3,1")), None, "CUDA does not see it");
        assert_eq!(on_bus(0, Some("")), None, "CUDA sees none");
    }

    #[test]
    fn the_tools_line_is_put_in_words() {
        let line = "NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06\n";
        assert_eq!(description(line).as_deref(), Some("NVIDIA H100 80GB HBM3, 81559 MiB, driver 580.65.06"));
        for odd in ["", "No devices were found\n", "a, b\n"] {
            assert_eq!(description(odd), None, "{odd}");
        }
    }
}
