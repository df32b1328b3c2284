//! What must never be printed.

use std::fmt;
use std::path::{Path, PathBuf};

/// Longest secret, in bytes.
const SECRET_BYTES_MAX: u64 = 4096;

/// A password. Its `Debug` shows three stars, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    file: PathBuf,
    text: Box<str>,
}

impl Secret {
    /// Reads a secret from a file, without the line end after it.
    ///
    /// # Errors
    /// What is wrong, without any of the file's text.
    pub fn read(file: &Path) -> Result<Secret, String> {
        let cannot = |e: std::io::Error| format!("{} cannot be read: {e}", file.display());
        if std::fs::metadata(file).map_err(cannot)?.len() > SECRET_BYTES_MAX {
            return Err(format!("{} is longer than {SECRET_BYTES_MAX} bytes: is it the right file?", file.display()));
        }
        let text = std::fs::read_to_string(file).map_err(cannot)?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(format!("{} is empty; write the password into it", file.display())),
            text => Ok(Secret { file: file.to_owned(), text: text.into() }),
        }
    }

    /// What the file says now, so that a corrected password takes effect with the next try; what it said before if it cannot be read.
    pub fn latest(&self) -> Secret {
        Secret::read(&self.file).unwrap_or_else(|_| self.clone())
    }

    /// The secret itself: for the library that needs it, never for a log.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
