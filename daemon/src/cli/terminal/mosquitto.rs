//! mosquitto's password file: a line `user:hash` each. The hash is made by `mosquitto_passwd` where it is installed, and as it would make it
//! where not.

use crate::whole_file::{self, Owner};
use anyhow::{Context, bail, ensure};
use gateway::ids::Name;
use openssl::base64::encode_block;
use openssl::hash::MessageDigest;
use openssl::pkcs5::pbkdf2_hmac;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// As `mosquitto_passwd` of mosquitto 2 has it.
const ROUNDS: usize = 101;
const SALT_BYTES: usize = 12;
const HASH_BYTES: usize = 64;

/// The password file.
#[derive(Debug)]
pub struct Passwords {
    path: PathBuf,
    lines: Vec<String>,
    mode: u32,
    owner: Option<Owner>,
}

impl Passwords {
    /// Reads the file; one that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> anyhow::Result<Passwords> {
        let cannot = || format!("{} cannot be read: run this command as root", path.display());
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let found = std::fs::metadata(path).with_context(cannot)?;
                let is_root = rustix::process::geteuid().is_root();
                let owner = is_root.then(|| Owner { uid: found.uid(), gid: found.gid() });
                Ok(Passwords { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect(), mode: found.mode() & 0o777, owner })
            }
            // mosquitto gives up root's rights and reads it again at a reload: so it must be mosquitto's.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let owner = if rustix::process::geteuid().is_root() { user("mosquitto") } else { None };
                Ok(Passwords { path: path.to_owned(), lines: vec![], mode: 0o600, owner })
            }
            Err(e) => Err(e).with_context(cannot),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn has(&self, user: &str) -> bool {
        self.lines.iter().any(|line| is_of(line, user))
    }

    /// Gives a user this password, in place of any other.
    ///
    /// # Errors
    /// No hash could be made.
    pub fn set(&mut self, user: &Name, password: &str) -> anyhow::Result<()> {
        let line = match by_mosquitto(user, password)? {
            Some(line) => line,
            None => line(user, password)?,
        };
        self.remove(user);
        self.lines.push(line);
        Ok(())
    }

    /// Forgets a user.
    pub fn remove(&mut self, user: &Name) {
        self.lines.retain(|line| !is_of(line, user.as_str()));
    }

    /// Makes the file durable, of the owner that it had.
    ///
    /// # Errors
    /// It is as it was.
    pub fn write(&self) -> anyhow::Result<()> {
        let text: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        whole_file::replace(&self.path, text.as_bytes(), self.mode, self.owner)
            .with_context(|| format!("cannot write {}: is mosquitto installed? Run this command as root", self.path.display()))
    }
}

fn is_of(line: &str, user: &str) -> bool {
    line.split_once(':').is_some_and(|(name, _)| name == user)
}

/// What `mosquitto_passwd` makes of it; `None` where it is not installed. The password is never among a program's arguments, which
/// everybody on the computer can read.
fn by_mosquitto(user: &Name, password: &str) -> anyhow::Result<Option<String>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("passwords");
    whole_file::replace(&path, format!("{user}:{password}\n").as_bytes(), 0o600, None)?;
    let ended = Command::new("mosquitto_passwd").arg("-U").arg(&path).stdin(Stdio::null()).output();
    match ended {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).context("mosquitto_passwd cannot be run"),
        Ok(ended) if !ended.status.success() => bail!("mosquitto_passwd failed: {}", String::from_utf8_lossy(&ended.stderr).trim()),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(&path)?;
    let line = text.trim_end();
    ensure!(is_of(line, user.as_str()) && !line.contains(password), "mosquitto_passwd made no hash of a password");
    Ok(Some(line.to_owned()))
}

/// `user:$7$rounds$salt$hash`, PBKDF2 with HMAC-SHA-512.
fn line(user: &Name, password: &str) -> anyhow::Result<String> {
    let (mut salt, mut hash) = ([0; SALT_BYTES], [0; HASH_BYTES]);
    getrandom::fill(&mut salt).map_err(|e| anyhow::anyhow!("the system gives no random bytes: {e}"))?;
    pbkdf2_hmac(password.as_bytes(), &salt, ROUNDS, MessageDigest::sha512(), &mut hash)?;
    Ok(format!("{user}:$7${ROUNDS}${}${}", encode_block(&salt), encode_block(&hash)))
}

/// A user of this computer.
fn user(name: &str) -> Option<Owner> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, ..] = fields[..] else { return None };
        (found == name).then_some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::base64::decode_block;

    #[test]
    fn a_hash_is_as_mosquitto_makes_it() {
        let line = line(&"till-1".parse().unwrap(), "hush").unwrap();
        let fields: Vec<&str> = line.split('$').collect();
        assert_eq!((fields[0], fields[1], fields[2]), ("till-1:", "7", "101"));
        let (salt, hash) = (decode_block(fields[3]).unwrap(), decode_block(fields[4]).unwrap());
        assert_eq!((salt.len(), hash.len()), (12, 64));
        let mut again = [0; 64];
        pbkdf2_hmac(b"hush", &salt, 101, MessageDigest::sha512(), &mut again).unwrap();
        assert_eq!(hash, again);
    }

    #[test]
    fn a_user_comes_and_goes_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dumbwaiter.passwd");
        std::fs::write(&path, "dumbwaiter:$7$101$a$b\ntill-10:$7$101$c$d\n").unwrap();
        let name: Name = "till-1".parse().unwrap();
        let mut passwords = Passwords::read(&path).unwrap();
        assert!(!passwords.has("till-1") && passwords.has("till-10"));
        for _ in 0..2 {
            passwords.set(&name, "hush").unwrap();
        }
        passwords.write().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().nth(2).unwrap().starts_with("till-1:$") && !text.contains("hush"), "{text}");
        let mut passwords = Passwords::read(&path).unwrap();
        passwords.remove(&name);
        passwords.write().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "dumbwaiter:$7$101$a$b\ntill-10:$7$101$c$d\n");
    }
}
