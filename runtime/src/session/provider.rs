//! The provider that a session runs on, and what to do where there is none.

use graphgen::preset::{ArenaGrowth, ConvolutionSearch, Device, Preset, Provider, SinkhornKernel};
use ort::ep::{self, ArenaExtendStrategy, ExecutionProvider, ExecutionProviderDispatch};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;

use super::nvidia;

/// Why a provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The library was built without it.
    #[error("--provider {provider}: the ONNX Runtime in use has no {name} ({library}). {advice}")]
    NotBuilt {
        /// The provider.
        provider: Provider,
        /// ONNX Runtime's name of it.
        name: &'static str,
        /// What the library says of itself.
        library: String,
        /// What to do.
        advice: &'static str,
    },
    /// The library has it, but it did not start.
    #[error("--provider {provider}: {name} does not start: {reason}. {advice}")]
    NotUsable {
        /// The provider.
        provider: Provider,
        /// ONNX Runtime's name of it.
        name: &'static str,
        /// What ONNX Runtime says.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
}

const CUDA_INSTALL: &str = "Run scripts/setup.sh --provider cuda, or set ORT_DYLIB_PATH to the library of onnxruntime-gpu; docs/providers.md describes both";
const DIRECTML_INSTALL: &str = "DirectML is there under Windows only: put onnxruntime.dll and DirectML.dll of onnxruntime-directml into one folder and set \
                                ORT_DYLIB_PATH to the former; docs/providers.md describes it";
const CUDA_START: &str = "CUDA 13, cuDNN 9 and an NVIDIA driver that knows them must be installed, or fetched with scripts/setup.sh --provider cuda --with-libraries; \
                          nvidia-smi must list a device, and device.id name one of them";
const DIRECTML_START: &str = "A device with DirectX 12 and a current driver must be there, and device.id name one of them";

/// Where sessions run, with the provider's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderOptions {
    /// Provider.
    pub provider: Provider,
    /// Its options.
    pub device: Device,
    /// Functions whose native kernel may run on the CPU, and operators that may.
    pub allowed_on_cpu: Vec<String>,
}

impl Default for ProviderOptions {
    /// The CPU.
    fn default() -> Self {
        ProviderOptions { provider: Provider::Cpu, device: Device::default(), allowed_on_cpu: Vec::new() }
    }
}

impl ProviderOptions {
    /// What a preset asks for.
    pub fn of(preset: &Preset) -> ProviderOptions {
        let mut allowed_on_cpu = preset.device.allow_on_cpu.clone();
        if preset.train.resolved_sinkhorn() == SinkhornKernel::Native {
            allowed_on_cpu.push("SinkhornKnopp".into());
        }
        ProviderOptions { provider: preset.train.provider, device: preset.device.clone(), allowed_on_cpu }
    }

    /// ONNX Runtime's name of the provider.
    pub fn name(&self) -> &'static str {
        match self.provider {
            Provider::Cpu => "CPUExecutionProvider",
            Provider::Cuda => ep::CUDA::NAME,
            Provider::Directml => ep::DirectML::NAME,
        }
    }

    /// The provider and its device, with what can be found out about it.
    pub fn describe(&self) -> String {
        let id = self.device.id;
        match self.provider {
            Provider::Cpu => self.name().into(),
            Provider::Cuda => match nvidia::describe(id) {
                Some(device) => format!("{}, device {id}: {device}", self.name()),
                None => format!("{}, device {id} (nvidia-smi says nothing of it)", self.name()),
            },
            Provider::Directml => format!("{}, DXGI adapter {id}", self.name()),
        }
    }

    /// Whether the library has the provider: known before anything is written.
    ///
    /// # Errors
    /// A library without it.
    pub fn check(&self) -> Result<(), ProviderError> {
        self.dispatch().map(drop)
    }

    /// The providers to register, strictly: one that fails is an error. None for the CPU, which ONNX Runtime registers
    /// itself.
    ///
    /// # Errors
    /// A library without the provider.
    pub(super) fn dispatch(&self) -> Result<Option<ExecutionProviderDispatch>, ProviderError> {
        let (available, built) = match self.provider {
            Provider::Cpu => return Ok(None),
            Provider::Cuda => (ep::CUDA::is_available(), self.cuda()),
            Provider::Directml => (ep::DirectML::is_available(), ep::DirectML::default().with_device_id(self.device.id as i32).build()),
        };
        if !available.unwrap_or(false) {
            let advice = if self.provider == Provider::Cuda { CUDA_INSTALL } else { DIRECTML_INSTALL };
            return Err(ProviderError::NotBuilt { provider: self.provider, name: self.name(), library: ort::info().into(), advice });
        }
        Ok(Some(built.error_on_failure()))
    }

    fn cuda(&self) -> ExecutionProviderDispatch {
        let growth = match self.device.arena_growth {
            ArenaGrowth::SameAsRequested => ArenaExtendStrategy::SameAsRequested,
            ArenaGrowth::NextPowerOfTwo => ArenaExtendStrategy::NextPowerOfTwo,
        };
        let search = match self.device.convolution_search {
            ConvolutionSearch::Exhaustive => ep::cuda::ConvAlgorithmSearch::Exhaustive,
            ConvolutionSearch::Heuristic => ep::cuda::ConvAlgorithmSearch::Heuristic,
        };
        let mut cuda = ep::CUDA::default()
            .with_device_id(self.device.id as i32)
            .with_arena_extend_strategy(growth)
            .with_conv_algorithm_search(search)
            .with_conv_max_workspace(self.device.convolution_workspace);
        if self.device.memory_limit_bytes > 0 {
            cuda = cuda.with_memory_limit(self.device.memory_limit_bytes);
        }
        cuda.build()
    }

    /// The error of a provider that ONNX Runtime could not start.
    pub(super) fn not_usable(&self, error: &ort::Error) -> ProviderError {
        let advice = if self.provider == Provider::Directml { DIRECTML_START } else { CUDA_START };
        ProviderError::NotUsable { provider: self.provider, name: self.name(), reason: error.to_string(), advice }
    }

    /// What to change when a session runs out of the device's memory; `None` for other errors.
    pub(super) fn memory_advice(&self, error: &ort::Error) -> Option<&'static str> {
        let text = error.to_string().to_lowercase();
        let full = ["out of memory", "failed to allocate memory", "not enough memory", "available memory of"].iter().any(|words| text.contains(words));
        (full && self.provider != Provider::Cpu).then_some(
            "the device's memory is full: lower train.batch_size or raise train.accumulate, choose train.precision = \"mixed-f16\", or raise \
             device.memory_limit_bytes",
        )
    }

    /// An allocator of the provider's own memory; `None` for the CPU.
    pub(super) fn allocator(&self, session: &Session) -> ort::Result<Option<Allocator>> {
        let memory = match self.provider {
            Provider::Cpu => return Ok(None),
            Provider::Cuda => AllocationDevice::CUDA,
            Provider::Directml => AllocationDevice::DIRECTML,
        };
        let memory = MemoryInfo::new(memory, self.device.id as i32, AllocatorType::Device, MemoryType::Default)?;
        Allocator::new(session, memory).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::environment::environment;

    fn on(provider: Provider) -> ProviderOptions {
        ProviderOptions { provider, ..ProviderOptions::default() }
    }

    #[test]
    fn a_library_without_the_provider_says_what_to_install() {
        environment().expect("ONNX Runtime is set up");
        assert!(on(Provider::Cpu).dispatch().expect("always there").is_none());
        for (provider, name, advice) in [
            (Provider::Cuda, "CUDAExecutionProvider", "scripts/setup.sh --provider cuda"),
            (Provider::Directml, "DmlExecutionProvider", "onnxruntime-directml"),
        ] {
            let error = on(provider).dispatch().err().expect("a CPU build").to_string();
            assert!(error.contains(name) && error.contains(advice), "{error}");
        }
    }

    #[test]
    fn a_full_device_is_told_from_other_errors() {
        let full = ort::Error::new("BFCArena: Failed to allocate memory for requested buffer of size 4096");
        assert!(on(Provider::Cuda).memory_advice(&full).is_some_and(|advice| advice.contains("train.batch_size")));
        assert!(on(Provider::Cpu).memory_advice(&full).is_none());
        assert!(on(Provider::Cuda).memory_advice(&ort::Error::new("no such file")).is_none());
    }

    #[test]
    fn the_native_sinkhorn_is_allowed_on_the_cpu() {
        let mut preset = Preset::default();
        preset.train.provider = Provider::Cuda;
        preset.device.allow_on_cpu = vec!["MaxUnpool".into()];
        assert_eq!(ProviderOptions::of(&preset).allowed_on_cpu, ["MaxUnpool"], "on a device it is a graph by default");
        preset.train.sinkhorn = SinkhornKernel::Native;
        assert_eq!(ProviderOptions::of(&preset).allowed_on_cpu, ["MaxUnpool", "SinkhornKnopp"]);
    }
}
