//! The computer that the program runs on.

use serde::Serialize;
use sysinfo::System;

/// What is worth knowing beside a measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// Operating system with its version.
    pub system: String,
    /// Processor.
    pub processor: String,
    /// Processors that the program may use.
    pub cores: usize,
    /// Memory, bytes; written as GB.
    #[serde(rename = "memory_gb", serialize_with = "as_gigabytes")]
    pub memory_bytes: u64,
    /// Memory that is free for use, bytes; not written, since it is of the moment.
    #[serde(skip)]
    pub available_bytes: u64,
}

impl Machine {
    /// Asks the operating system.
    pub fn read() -> Machine {
        let mut system = System::new();
        system.refresh_memory();
        system.refresh_cpu_all();
        let processor = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
        Machine {
            system: System::long_os_version().unwrap_or_else(|| std::env::consts::OS.into()),
            processor: if processor.is_empty() { std::env::consts::ARCH.into() } else { processor },
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: system.cgroup_limits().map_or(system.total_memory(), |limits| limits.total_memory.min(system.total_memory())),
            available_bytes: system.cgroup_limits().map_or(system.available_memory(), |limits| limits.free_memory.min(system.available_memory())),
        }
    }
}

/// Threads for a setting of which 0 means one per core.
pub(crate) fn thread_count(threads: usize) -> usize {
    if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads }
}

/// The most memory that this process has held at once, bytes; `None` where the system does not say (`VmHWM` of Linux).
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn as_gigabytes<S: serde::Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((*bytes as f64 / 1e8).round() / 10.0)
}
