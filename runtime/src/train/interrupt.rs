//! Requests from outside to stop or to save.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Why a run was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
    /// SIGTERM: the system or a batch scheduler wants the machine back.
    Terminate,
}

/// Requests that a run looks at after every step and while it waits for data.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    /// 0, or 1 + the position in [`STOP_SIGNALS`].
    stop: Arc<AtomicUsize>,
    save: Arc<AtomicBool>,
}

const STOP_SIGNALS: [StopSignal; 2] = [StopSignal::Interrupt, StopSignal::Terminate];

impl Interrupt {
    /// Requests by the process's signals: the first SIGINT or SIGTERM asks the run to save and stop, a second one ends the
    /// process at once; SIGUSR1 asks it to save and go on. On Windows, Ctrl-C is all there is. To be called once, before
    /// the run starts.
    ///
    /// # Errors
    /// A system that does not let the signals be handled.
    pub fn of_signals() -> std::io::Result<Interrupt> {
        use signal_hook::consts::SIGINT;
        use signal_hook::flag;

        let interrupt = Interrupt::default();
        let stopping = Arc::new(AtomicBool::new(false));
        let mut signals = vec![(SIGINT, StopSignal::Interrupt)];
        if cfg!(unix) {
            signals.push((signal_hook::consts::SIGTERM, StopSignal::Terminate));
        }
        for (signal, meaning) in signals {
            // In this order: the second signal of whatever kind finds the flag set.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stopping))?;
            flag::register(signal, Arc::clone(&stopping))?;
            flag::register_usize(signal, Arc::clone(&interrupt.stop), code(meaning))?;
        }
        #[cfg(unix)]
        flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&interrupt.save))?;
        Ok(interrupt)
    }

    /// Asks for a checkpoint and the end of the run.
    pub fn stop(&self, signal: StopSignal) {
        self.stop.store(code(signal), Ordering::Relaxed);
    }

    /// Asks for a checkpoint.
    pub fn save(&self) {
        self.save.store(true, Ordering::Relaxed);
    }

    /// Whether and why the run is asked to stop.
    pub fn stop_requested(&self) -> Option<StopSignal> {
        STOP_SIGNALS.get(self.stop.load(Ordering::Relaxed).checked_sub(1)?).copied()
    }

    /// Whether a checkpoint is asked for; the request counts as met afterwards.
    pub fn take_save_request(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }
}

fn code(signal: StopSignal) -> usize {
    1 + signal as usize
}
