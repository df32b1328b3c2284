//! Keys that name files: secrets, certificates and folders.

use super::Context;
use super::problem::Origin;
use super::secret::Secret;
use super::section::{At, Section};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// A file that held PEM when the config was read. Two are equal if they have the same path and held the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemFile {
    path: PathBuf,
    content: u64,
}

impl Deref for PemFile {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Section<'_> {
    /// A path; a relative one starts at the folder of the config file.
    pub(super) fn path(&mut self, key: &'static str, context: &Context<'_>) -> Option<At<PathBuf>> {
        let At { origin, value } = self.get::<String>(key)?;
        if value.is_empty() {
            self.problem(&origin, key, "is empty; give a path, or remove the line");
            return None;
        }
        let value = context.folder.join(value);
        Some(At { origin, value })
    }

    /// A path, or else the systemd credential of that name.
    fn file(&mut self, key: &'static str, credential: &str, context: &Context<'_>) -> Option<At<PathBuf>> {
        self.path(key, context).or_else(|| {
            let value = context.environment.credentials.as_ref()?.join(credential);
            let origin = Origin::Variable(format!("$CREDENTIALS_DIRECTORY/{credential}").into());
            value.exists().then_some(At { origin, value })
        })
    }

    /// What a secret file holds; `None` if no file is named or it is wrong.
    pub(super) fn secret(&mut self, key: &'static str, credential: &str, context: &Context<'_>) -> Option<At<Secret>> {
        let At { origin, value } = self.file(key, credential, context)?;
        self.noted(key, origin, Secret::read(&value))
    }

    /// A file that must hold PEM; `None` if no file is named or it is wrong.
    pub(super) fn pem(&mut self, key: &'static str, credential: &str, context: &Context<'_>) -> Option<At<PemFile>> {
        let At { origin, value } = self.file(key, credential, context)?;
        self.noted(key, origin, read_pem(value))
    }

    fn noted<T>(&self, key: &str, origin: Origin, read: Result<T, String>) -> Option<At<T>> {
        match read {
            Ok(value) => Some(At { origin, value }),
            Err(what) => {
                self.problem(&origin, key, what);
                None
            }
        }
    }
}

fn read_pem(path: PathBuf) -> Result<PemFile, String> {
    let bytes = std::fs::read(&path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    let mark = b"-----BEGIN ";
    if !bytes.windows(mark.len()).any(|window| window == mark) {
        return Err(format!("{} is no PEM file: it has no line '-----BEGIN …'", path.display()));
    }
    let mut content = DefaultHasher::new();
    bytes.hash(&mut content);
    Ok(PemFile { path, content: content.finish() })
}
