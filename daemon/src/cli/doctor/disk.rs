//! The disk under the data folder: what it is, how full, how quick, how worn.

use super::device::folders;
use super::read;
use crate::config::StoreSection;
use crate::kafka::Finding;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const SYNCS: usize = 20;
/// Above it a till waits noticeably for each order.
const SLOW_SYNC: Duration = Duration::from_millis(250);
const INODES_MIN: u64 = 64;
/// File systems that are gone when the power is.
const VOLATILE: [&str; 3] = ["tmpfs", "ramfs", "overlay"];

pub fn look(root: &Path, section: &StoreSection) -> Vec<Finding> {
    // Before the first start there is no data folder yet.
    let Some(folder) = section.data_dir.ancestors().find(|folder| folder.is_dir()) else { return vec![] };
    let mut findings = vec![mount(root, folder)];
    findings.push(room(folder, section.min_free_bytes));
    findings.extend(syncs(folder));
    findings.extend(folders(root, "sys/block").filter_map(|device| wear(&device)));
    findings
}

/// The mount that a folder lies on, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn mount(root: &Path, folder: &Path) -> Finding {
    let shown = folder.display();
    let table = read(root, "proc/self/mountinfo").unwrap_or_default();
    let mounts = table.lines().filter_map(|line| {
        let (place, rest) = line.split_once(" - ")?;
        let fields: Vec<&str> = place.split(' ').collect();
        let mut rest = rest.split(' ');
        Some((*fields.get(4)?, *fields.get(5)?, rest.next()?, rest.next()?))
    });
    let own = mounts.filter(|(at, ..)| folder.starts_with(at)).max_by_key(|(at, ..)| at.len());
    let Some((_, options, kind, device)) = own else { return Finding::Note(format!("{shown}: no mount is known")) };
    if VOLATILE.contains(&kind) {
        return Finding::Wrong(format!("{shown} lies on {kind}, which is gone with the power: put store.data_dir onto a real disk"));
    }
    if options.split(',').any(|option| option == "ro") {
        return Finding::Wrong(format!(
            "{shown} is read-only: Linux makes it so after an error of the disk; see dmesg, and replace the card"
        ));
    }
    Finding::Right(format!("{shown} is {kind} on {device}"))
}

fn room(folder: &Path, min_free: u64) -> Finding {
    let mib = |bytes: u64| bytes / (1024 * 1024);
    match rustix::fs::statvfs(folder) {
        Err(error) => Finding::Wrong(format!("{}: {error}", folder.display())),
        Ok(disk) => {
            let (free, all) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
            let text = format!("{} of {} MiB are free, {} more files can be made", mib(free), mib(all), disk.f_favail);
            // Some file systems count no inodes.
            if free < min_free || disk.f_files > 0 && disk.f_favail < INODES_MIN {
                Finding::Wrong(format!("{text}; new orders are refused below {} MiB (store.min_free): free some", mib(min_free)))
            } else {
                Finding::Right(text)
            }
        }
    }
}

/// How long small syncs take, where this user may write.
fn syncs(folder: &Path) -> Option<Finding> {
    let mut file = tempfile::Builder::new().prefix("doctor-").tempfile_in(folder).ok()?;
    let mut took = [Duration::ZERO; SYNCS];
    for each in &mut took {
        let begun = Instant::now();
        let written = file.write_all(&[b'.'; 4096]).and_then(|()| file.as_file().sync_data());
        if let Err(error) = written {
            return Some(Finding::Wrong(format!("{}: {error}: see dmesg, and replace the card", folder.display())));
        }
        *each = begun.elapsed();
    }
    took.sort_unstable();
    let (usual, longest) = (took[SYNCS / 2], took[SYNCS - 1]);
    let text = format!("a sync takes {} ms, the longest of {SYNCS} {} ms", usual.as_millis(), longest.as_millis());
    Some(if usual > SLOW_SYNC {
        Finding::Wrong(format!("{text}: terminals wait that long for each answer; use a better card"))
    } else {
        Finding::Right(text)
    })
}

/// What an eMMC says of its life (JESD84-B51: tenths that are used up, and the reserve).
fn wear(device: &Path) -> Option<Finding> {
    let name = device.file_name()?.to_string_lossy().into_owned();
    let tenths = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let life = read(device, "device/life_time").or_else(|| read(device, "device/device/life_time"))?;
    let used = life.split_whitespace().filter_map(tenths).max().filter(|tenths| *tenths > 0)?;
    let reserve = fs::read_to_string(device.join("device/pre_eol_info")).ok().and_then(|text| tenths(text.trim()));
    let text = format!("{name}: at most {} % of its life are used", used * 10);
    Some(if used >= 9 || reserve.is_some_and(|state| state >= 2) {
        Finding::Wrong(format!("{text}: replace it before it fails; `dumbwaiter store export` saves what waits"))
    } else {
        Finding::Right(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw\n\
                         30 22 0:25 / /var/volatile rw - tmpfs tmpfs rw\n\
                         31 22 179:3 / /var/lib ro,noatime shared:9 - ext4 /dev/mmcblk0p3 ro\n";

    fn tree(path: &str, text: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
        fs::write(root.path().join(path), text).unwrap();
        root
    }

    #[test]
    fn the_nearest_mount_counts() {
        let root = tree("proc/self/mountinfo", TABLE);
        let said = |folder| match mount(root.path(), Path::new(folder)) {
            Finding::Right(what) => format!("right: {what}"),
            Finding::Note(what) => format!("note: {what}"),
            Finding::Wrong(what) => format!("wrong: {what}"),
        };
        assert_eq!(said("/srv/data"), "right: /srv/data is ext4 on /dev/mmcblk0p2");
        assert!(said("/var/volatile/data").starts_with("wrong: /var/volatile/data lies on tmpfs"));
        assert!(said("/var/lib/dumbwaiter").starts_with("wrong: /var/lib/dumbwaiter is read-only"));
    }

    #[test]
    fn a_worn_device_is_told() {
        for (life, is_wrong) in [("0x01 0x02", false), ("0x03 0x0a", true)] {
            let root = tree("mmcblk0/device/life_time", life);
            assert_eq!(matches!(wear(&root.path().join("mmcblk0")), Some(Finding::Wrong(_))), is_wrong, "{life}");
        }
        let root = tree("mmcblk0/device/name", "SD32G");
        assert!(wear(&root.path().join("mmcblk0")).is_none());
    }

    #[test]
    fn a_full_disk_is_told_and_a_sync_takes_time() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(room(folder.path(), u64::MAX), Finding::Wrong(_)));
        assert!(matches!(room(folder.path(), 0), Finding::Right(_)));
        assert!(syncs(folder.path()).is_some());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
