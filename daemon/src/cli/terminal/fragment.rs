//! What the config says of one terminal: a file of its own in `conf.d`.

use crate::config::{Framing, TokenHash};
use crate::whole_file::{self, Owner};
use anyhow::{Context, bail};
use gateway::ids::Name;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The daemon's user and group, as the package makes them.
const USER: &str = "dumbwaiter";

/// The file of a terminal.
#[derive(Debug)]
pub struct Fragment {
    path: PathBuf,
    /// As it is on disk.
    before: Option<String>,
    pub content: Content,
}

/// What a fragment says.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<Http>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    serial: Vec<Serial>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Http {
    token: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    terminal: String,
    sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Serial {
    terminal: String,
    path: PathBuf,
    baud: u32,
    framing: String,
}

impl Content {
    pub fn has_token(&self) -> bool {
        self.http.is_some()
    }

    pub fn has_port(&self) -> bool {
        !self.serial.is_empty()
    }

    /// Gives the terminal this token, and no other.
    pub fn set_token(&mut self, terminal: &Name, hash: &TokenHash) {
        self.http = Some(Http { token: vec![Token { terminal: terminal.to_string(), sha256: hash.to_string() }] });
    }

    /// Puts the terminal at this port.
    pub fn set_port(&mut self, terminal: &Name, path: &Path, baud: u32, framing: Framing) {
        let framing = framing.as_str().to_owned();
        self.serial = vec![Serial { terminal: terminal.to_string(), path: path.to_owned(), baud, framing }];
    }
}

impl Fragment {
    /// Reads the terminal's file, if there is one.
    ///
    /// # Errors
    /// It cannot be read, or somebody wrote something else into it.
    pub fn of(config: &Path, terminal: &Name) -> anyhow::Result<Fragment> {
        let path = config.parent().unwrap_or(Path::new("")).join("conf.d").join(format!("terminal-{terminal}.toml"));
        let before = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => bail!("{} cannot be read: {e}; run this command as root", path.display()),
        };
        let content = match &before {
            Some(text) => toml::from_str(text)
                .with_context(|| format!("{} holds something else than this command writes: edit it by hand", path.display()))?,
            None => Content::default(),
        };
        Ok(Fragment { path, before, content })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn exists(&self) -> bool {
        self.before.is_some()
    }

    /// Makes the content durable.
    ///
    /// # Errors
    /// It is as it was.
    pub fn write(&self) -> anyhow::Result<()> {
        let text = toml::to_string(&self.content)?;
        self.put(&format!("# Written by `dumbwaiter terminal`. A token itself is in its terminal only; this is its hash.\n{text}"))
    }

    /// Puts back what was there before.
    ///
    /// # Errors
    /// The file is as it was written last.
    pub fn restore(&self) -> anyhow::Result<()> {
        match &self.before {
            Some(text) => self.put(text),
            None => self.remove(),
        }
    }

    /// Removes the file.
    ///
    /// # Errors
    /// It is still there.
    pub fn remove(&self) -> anyhow::Result<()> {
        whole_file::remove(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }

    /// The daemon's to read and nobody else's where it has a group. Where it has none it is a user that systemd makes up, and a hash of 256
    /// random bits may be everybody's to read.
    fn put(&self, text: &str) -> anyhow::Result<()> {
        let cannot = || format!("cannot write {}: run this command as the owner of that folder, mostly root", self.path.display());
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).with_context(cannot)?;
        }
        let is_root = rustix::process::geteuid().is_root();
        let owner = is_root.then(|| group(USER)).flatten().map(|gid| Owner { uid: 0, gid });
        let mode = match (is_root, owner) {
            (true, Some(_)) => 0o640,
            (true, None) => 0o644,
            (false, _) => 0o600,
        };
        whole_file::replace(&self.path, text.as_bytes(), mode, owner).with_context(cannot)
    }
}

/// The number of a group of this computer.
fn group(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().map(|line| line.split(':')).find_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_is_read_again_and_is_a_config() {
        let folder = tempfile::tempdir().unwrap();
        let (config, till) = (folder.path().join("dumbwaiter.toml"), "till-1".parse().unwrap());
        std::fs::write(&config, "gateway.id = 'g'").unwrap();
        let mut first = Fragment::of(&config, &till).unwrap();
        assert!(!first.exists());
        first.content.set_token(&till, &TokenHash([7; 32]));
        first.write().unwrap();
        let loaded = || Config::load(&config, &Environment::default()).unwrap();
        assert_eq!(loaded().http.tokens[0].sha256, TokenHash([7; 32]));
        assert_eq!(std::fs::metadata(first.path()).unwrap().permissions().mode() & 0o002, 0);

        let mut second = Fragment::of(&config, &till).unwrap();
        assert_eq!(second.content, first.content);
        second.content = Content::default();
        second.content.set_port(&till, Path::new("/dev/ttyUSB0"), 9600, Framing::Json);
        second.write().unwrap();
        let port = loaded().serial.remove(0);
        assert_eq!((port.terminal, port.baud, port.framing), (till.clone(), 9600, Framing::Json));
        second.restore().unwrap();
        assert!(loaded().serial.is_empty() && loaded().http.tokens.len() == 1);
        second.remove().unwrap();
        assert!(loaded().http.tokens.is_empty());

        std::fs::write(first.path(), "[board]\nhours = 3").unwrap();
        assert!(format!("{:#}", Fragment::of(&config, &till).unwrap_err()).contains("edit it by hand"));
    }
}
