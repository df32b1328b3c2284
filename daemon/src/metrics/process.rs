//! What Linux counts for this process: proc(5).

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::atomic::{AtomicU64, Ordering};

/// Clock ticks a second in `/proc`: fixed by the kernel's interface on every platform that the daemon is built for.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Default)]
pub(super) struct Figures {
    pub resident_bytes: Gauge,
    pub cpu_seconds: Counter<f64, AtomicU64>,
    pub disk_written_bytes: Counter,
}

impl Figures {
    /// Reads them anew; one that Linux does not tell keeps its last value.
    pub(super) fn read(&self) {
        let text = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        if let Some(kib) = field(&text("/proc/self/status"), "VmRSS:") {
            self.resident_bytes.set(i64::try_from(kib.saturating_mul(1024)).unwrap_or(i64::MAX));
        }
        if let Some(ticks) = cpu_ticks(&text("/proc/self/stat")) {
            self.cpu_seconds.inner().store((ticks / TICKS_PER_SECOND).to_bits(), Ordering::Relaxed);
        }
        if let Some(bytes) = field(&text("/proc/self/io"), "write_bytes:") {
            self.disk_written_bytes.inner().store(bytes, Ordering::Relaxed);
        }
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time: the 14th and 15th fields, counted behind the name, which may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_proc_are_found() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 9 0 100 1000 200";
        assert_eq!(cpu_ticks(stat), Some(175.0));
        assert_eq!(field("VmPeak: 9 kB\nVmRSS:\t  812 kB\n", "VmRSS:"), Some(812));
        assert_eq!(field("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 7", "write_bytes:"), Some(4096));
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn this_process_has_memory_and_has_worked() {
        let figures = Figures::default();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while figures.cpu_seconds.get() <= 0.0 && std::time::Instant::now() < until {
            figures.read();
        }
        assert!(figures.resident_bytes.get() > 1 << 20);
        assert!(figures.cpu_seconds.get() > 0.0);
    }
}
