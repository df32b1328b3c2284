//! Keys that name files: secrets, certificates and folders.

use super::Context;
use super::problem::Origin;
use super::secret::Secret;
use super::section::{At, Section};
use std::path::{Path, PathBuf};

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
    pub(super) fn pem(&mut self, key: &'static str, credential: &str, context: &Context<'_>) -> Option<At<PathBuf>> {
        let At { origin, value } = self.file(key, credential, context)?;
        let checked = check_pem(&value).map(|()| value);
        self.noted(key, origin, checked)
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

fn check_pem(file: &Path) -> Result<(), String> {
    let bytes = std::fs::read(file).map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
    let mark = b"-----BEGIN ";
    match bytes.windows(mark.len()).any(|window| window == mark) {
        true => Ok(()),
        false => Err(format!("{} is no PEM file: it has no line '-----BEGIN …'", file.display())),
    }
}
