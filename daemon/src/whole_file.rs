//! Files that are replaced as a whole: after a power cut there is the old one or the new one, and what was said to be written is.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::Path;

/// Whose a file is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Writes a file, of this process's user unless it has another owner, and syncs it and its folder.
///
/// # Errors
/// It is as it was, unless only the folder's sync failed.
pub fn replace(path: &Path, text: &[u8], mode: u32, owner: Option<Owner>) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Hidden, and with another ending than that of a config: whoever lists the folder passes it over.
    let mut file = tempfile::Builder::new().prefix(".").suffix(".new").tempfile_in(folder)?;
    file.write_all(text)?;
    if let Some(Owner { uid, gid }) = owner {
        fchown(file.as_file(), Some(uid), Some(gid))?;
    }
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| failed.error)?;
    File::open(folder)?.sync_all()
}

/// Removes a file for good; one that is not there is as good as removed.
///
/// # Errors
/// It may come back after a power cut, or was not removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    File::open(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_rights_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        for (text, mode) in [("one", 0o600), ("two", 0o644)] {
            replace(&path, text.as_bytes(), mode, None).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        assert!(replace(&folder.path().join("none/x"), b"", 0o600, None).is_err());
    }
}
