//! The device under the daemon: power, heat, memory, clock. Everything is read from below a root folder, so that a test can give one.

use super::read;
use crate::clock;
use crate::kafka::Finding;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Pi slows down at 80 °C.
const HOT_MILLI_CELSIUS: i64 = 80_000;
const MEMORY_MIN_KIB: u64 = 64 * 1024;
/// Bits of the firmware's `get_throttled`: under-voltage now, and since it was switched on.
const UNDER_VOLTAGE: u64 = 0x1;
const WAS_UNDER_VOLTAGE: u64 = 0x1_0000;

pub fn look(root: &Path) -> Vec<Finding> {
    let found = [model(root), power(root), heat(root), memory(root), Some(time())];
    found.into_iter().flatten().collect()
}

fn model(root: &Path) -> Option<Finding> {
    let model = read(root, "proc/device-tree/model")?;
    Some(Finding::Right(model.trim_end_matches('\0').to_owned()))
}

/// The voltage sensor of a Pi's kernel, or what its firmware says.
fn power(root: &Path) -> Option<Finding> {
    let sensor = folders(root, "sys/class/hwmon").find(|folder| read(folder, "name").as_deref() == Some("rpi_volt"));
    let (now, before) = match sensor {
        Some(sensor) => (read(&sensor, "in0_lcrit_alarm")? == "1", false),
        None => {
            let text = read(root, "sys/devices/platform/soc/soc:firmware/get_throttled")?;
            let bits = u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()?;
            (bits & UNDER_VOLTAGE != 0, bits & WAS_UNDER_VOLTAGE != 0)
        }
    };
    let advice = "use the supply made for this device and a short cable: a dip can ruin a card";
    Some(match (now, before) {
        (true, _) => Finding::Wrong(format!("under-voltage now: {advice}")),
        (false, true) => Finding::Wrong(format!("there was under-voltage since it was switched on: {advice}")),
        (false, false) => Finding::Right("the voltage is well".into()),
    })
}

fn heat(root: &Path) -> Option<Finding> {
    let hottest = folders(root, "sys/class/thermal").filter_map(|zone| read(&zone, "temp")?.parse::<i64>().ok()).max()?;
    let celsius = hottest / 1000;
    Some(if hottest >= HOT_MILLI_CELSIUS {
        Finding::Wrong(format!("{celsius} °C: it slows down; give it air, away from the grill"))
    } else {
        Finding::Right(format!("{celsius} °C"))
    })
}

fn memory(root: &Path) -> Option<Finding> {
    let text = read(root, "proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(if kib < MEMORY_MIN_KIB {
        Finding::Wrong(format!("{} MiB of memory are available: see what else runs here", kib / 1024))
    } else {
        Finding::Right(format!("{} MiB of memory are available", kib / 1024))
    })
}

fn time() -> Finding {
    if clock::wall_ms().is_none() {
        let what = "the clock was never set: orders are dated by the last known time, and TLS fails until a time server is reached";
        return Finding::Wrong(what.into());
    }
    let asked = Command::new("timedatectl").args(["show", "--value", "-p", "NTPSynchronized"]).output();
    match asked.ok().filter(|done| done.status.success()).map(|done| done.stdout) {
        Some(said) if said.starts_with(b"yes") => Finding::Right("the clock is set by a time server".into()),
        Some(_) => Finding::Note("no time server has set the clock since it was switched on: is NTP let through (UDP 123)?".into()),
        None => Finding::Note("the clock shows a time; whether a time server sets it is unknown here".into()),
    }
}

pub(super) fn folders(root: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(root.join(path)).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn wrong(finding: Option<Finding>) -> Option<String> {
        match finding.unwrap() {
            Finding::Wrong(what) => Some(what),
            Finding::Right(_) | Finding::Note(_) => None,
        }
    }

    #[test]
    fn a_weak_supply_is_told_by_the_sensor_or_by_the_firmware() {
        const SENSOR: &str = "sys/class/hwmon/hwmon1";
        for (alarm, told) in [("0\n", false), ("1\n", true)] {
            let root = device(&[(&format!("{SENSOR}/name"), "rpi_volt\n"), (&format!("{SENSOR}/in0_lcrit_alarm"), alarm)]);
            assert_eq!(wrong(power(root.path())).is_some(), told, "{alarm}");
        }
        for (bits, told) in [("0\n", None), ("50005\n", Some("now")), ("0x50000\n", Some("since"))] {
            let root = device(&[("sys/devices/platform/soc/soc:firmware/get_throttled", bits)]);
            let said = wrong(power(root.path()));
            assert_eq!(said.is_some(), told.is_some(), "{bits}");
            assert!(told.is_none_or(|word| said.unwrap().contains(word)), "{bits}");
        }
        assert_eq!(power(device(&[]).path()).map(|_| ()), None);
    }

    #[test]
    fn heat_and_little_memory_are_told() {
        let root = device(&[("sys/class/thermal/thermal_zone0/temp", "51000\n"), ("sys/class/thermal/thermal_zone1/temp", "81234\n")]);
        assert!(wrong(heat(root.path())).unwrap().starts_with("81 °C"));
        let little = device(&[("proc/meminfo", "MemTotal:  500000 kB\nMemAvailable:  20480 kB\n")]);
        assert!(wrong(memory(little.path())).unwrap().starts_with("20 MiB"));
        let enough = device(&[("proc/meminfo", "MemAvailable:  204800 kB\n")]);
        assert_eq!(wrong(memory(enough.path())), None);
    }
}
