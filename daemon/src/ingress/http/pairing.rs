//! Pairing pages: codes that a person reads out once, and the pages that they made, kept in a small file of the data folder.
//!
//! Promises:
//! - A page is told that it is paired only after that is on disk, and it stays paired until it is revoked.
//! - The file holds hashes. A file that cannot be read is moved aside and kept; nobody is paired then.
//! - Guessing a code is hopeless: one address has few tries, and each wrong try counts against every code.

use super::keys::{KeyRing, Page, hash};
use super::rate::Rates;
use super::roles::Role;
use super::usage::Usage;
use crate::config::TokenHash;
use crate::whole_file;
use gateway::ids::Name;
use openssl::memcmp;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pages that may be paired at once.
pub const PAGES_MAX: usize = 64;
/// Codes that are valid at once.
pub const CODES_MAX: usize = 4;
/// So many wrong tries, from wherever, and a code is given up: with every code valid, one chance in 25,000.
pub const WRONG_TRIES_MAX: u32 = 10;
/// Tries of one address at once, one more after each [`TRY_INTERVAL`].
pub const TRIES_BURST: u32 = 5;
/// After so long an address has one more try.
pub const TRY_INTERVAL: Duration = Duration::from_secs(60);
/// Addresses whose tries are counted at once; beyond it those of any other are refused.
pub const TRYING_ADDRESSES_MAX: usize = 256;
/// Longest name of a page.
pub const PAGE_NAME_LEN_MAX: usize = 40;
/// Largest file of pages, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Random bytes of a cookie and of a page's id.
const COOKIE_BYTES: usize = 32;
const ID_BYTES: usize = 4;
const CODES: u32 = 1_000_000;

/// A code that is valid.
struct Code {
    digits: [u8; 6],
    role: Role,
    until: Instant,
    wrong: u32,
}

/// Why a page is not paired.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such code, or no more.
    #[error("no such code is valid")]
    Wrong,
    /// This address tried too often; it may again after so long.
    #[error("too many tries from this address")]
    TooOften(Duration),
    /// Another page has the name.
    #[error("another page has this name")]
    Taken,
    /// [`PAGES_MAX`] pages are paired, or [`CODES_MAX`] codes are valid.
    #[error("there are too many already")]
    Full,
    /// It could not be written down, and why.
    #[error("{0}")]
    NotWritten(String),
}

/// Pairs pages.
pub struct Pairing {
    keys: KeyRing,
    /// `None`: there is no data folder, and nobody can be paired.
    file: Option<PathBuf>,
    codes: Mutex<Vec<Code>>,
    tries: Mutex<Rates<IpAddr>>,
    /// One change of the file at a time.
    writing: tokio::sync::Mutex<()>,
    usage: Arc<Usage>,
}

impl Pairing {
    /// For these keys. The pages of the file have been [`load`]ed into them.
    pub fn new(keys: KeyRing, file: Option<PathBuf>, usage: Arc<Usage>) -> Pairing {
        let pairing = Pairing {
            keys,
            file,
            codes: Mutex::default(),
            tries: Mutex::new(Rates::new(TRY_INTERVAL, TRIES_BURST, TRYING_ADDRESSES_MAX)),
            writing: tokio::sync::Mutex::default(),
            usage,
        };
        pairing.usage.pages.used.set(pairing.keys.now().pages.len());
        pairing
    }

    /// A new code of six digits for a role.
    ///
    /// # Errors
    /// [`Refused::Full`], or there is no randomness.
    pub fn new_code(&self, role: Role, valid: Duration, now: Instant) -> Result<String, Refused> {
        let mut codes = self.valid_codes(now);
        if codes.len() >= CODES_MAX {
            self.usage.pairing_codes.refused.increment();
            return Err(Refused::Full);
        }
        let digits = loop {
            let text = format!("{:06}", random_below(CODES)?);
            let digits: [u8; 6] = text.as_bytes().try_into().expect("a number below a million has six digits");
            if codes.iter().all(|code| code.digits != digits) {
                break digits;
            }
        };
        codes.push(Code { digits, role, until: now + valid, wrong: 0 });
        self.usage.pairing_codes.used.set(codes.len());
        Ok(String::from_utf8_lossy(&digits).into_owned())
    }

    /// Pairs a page under a code, which is used up by it. Gives the cookie and the role. A page that is paired already is replaced.
    ///
    /// # Errors
    /// Nothing has changed, but for the try that it was; after [`Refused::NotWritten`] the code is used up.
    pub async fn pair(
        &self,
        code: &str,
        name: Name,
        before: Option<&Page>,
        from: IpAddr,
        (now, wall_ms): (Instant, Option<i64>),
    ) -> Result<(String, Role), Refused> {
        let _one = self.writing.lock().await;
        let others: Vec<Page> =
            self.keys.now().pages.iter().filter(|page| Some(&page.id) != before.map(|page| &page.id)).cloned().collect();
        let role = self.redeem(code, from, now, || {
            if others.iter().any(|page| page.name.as_str().eq_ignore_ascii_case(name.as_str())) {
                return Err(Refused::Taken);
            }
            if others.len() >= PAGES_MAX {
                self.usage.pages.refused.increment();
                return Err(Refused::Full);
            }
            Ok(())
        })?;
        let cookie = random_hex(COOKIE_BYTES)?;
        let page = Page { id: random_hex(ID_BYTES)?, name, role, sha256: hash(cookie.as_bytes()), paired_at_ms: wall_ms };
        let mut pages = others;
        pages.push(page);
        self.write(&pages).await?;
        self.take_over(pages);
        Ok((cookie, role))
    }

    /// Takes a page's key away; `false` if there is no such page.
    ///
    /// # Errors
    /// [`Refused::NotWritten`]: it is out, but would be back after a restart.
    pub async fn revoke(&self, id: &str) -> Result<bool, Refused> {
        let _one = self.writing.lock().await;
        let mut pages = self.keys.now().pages.clone();
        let before = pages.len();
        pages.retain(|page| page.id != id);
        if pages.len() == before {
            return Ok(false);
        }
        // Out first: a thief must not gain by a full disk.
        self.take_over(pages.clone());
        self.write(&pages).await?;
        Ok(true)
    }

    fn take_over(&self, pages: Vec<Page>) {
        self.usage.pages.used.set(pages.len());
        self.keys.pair(pages);
    }

    fn redeem(&self, code: &str, from: IpAddr, now: Instant, fits: impl FnOnce() -> Result<(), Refused>) -> Result<Role, Refused> {
        {
            let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = tries.take(&from, now);
            self.usage.pairing_addresses.used.set(tries.len());
            if let Err(wait) = taken {
                self.usage.pairing_addresses.refused.increment();
                return Err(Refused::TooOften(wait));
            }
        }
        let mut codes = self.valid_codes(now);
        // People write it as it was read to them.
        let digits: Vec<u8> = code.bytes().filter(|byte| !matches!(byte, b' ' | b'-')).collect();
        let found = codes.iter().position(|code| digits.len() == code.digits.len() && memcmp::eq(&digits, &code.digits));
        let Some(found) = found else {
            self.usage.pairing_wrong.increment();
            codes.iter_mut().for_each(|code| code.wrong += 1);
            codes.retain(|code| code.wrong < WRONG_TRIES_MAX);
            self.usage.pairing_codes.used.set(codes.len());
            tracing::warn!(%from, "a wrong pairing code");
            return Err(Refused::Wrong);
        };
        fits()?;
        let Code { role, .. } = codes.remove(found);
        self.usage.pairing_codes.used.set(codes.len());
        Ok(role)
    }

    fn valid_codes(&self, now: Instant) -> MutexGuard<'_, Vec<Code>> {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|code| code.until > now);
        self.usage.pairing_codes.used.set(codes.len());
        codes
    }

    async fn write(&self, pages: &[Page]) -> Result<(), Refused> {
        let Some(file) = self.file.clone() else { return Err(Refused::NotWritten("there is no data folder".into())) };
        let records: Vec<Record> = pages.iter().map(Record::of).collect();
        let text = gateway::json::text(&Records { version: VERSION, pages: records });
        let written = tokio::task::spawn_blocking(move || whole_file::replace(&file, text.as_bytes(), 0o600, None)).await;
        let failed = match written {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(error = failed, "the paired pages could not be written down");
        Err(Refused::NotWritten(failed))
    }
}

const VERSION: u32 = 1;

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Records {
    version: u32,
    pages: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Record {
    id: String,
    name: String,
    role: Role,
    sha256: String,
    paired_at_ms: Option<i64>,
}

impl Record {
    fn of(page: &Page) -> Record {
        Record {
            id: page.id.clone(),
            name: page.name.to_string(),
            role: page.role,
            sha256: page.sha256.to_string(),
            paired_at_ms: page.paired_at_ms,
        }
    }

    fn read(self) -> Option<Page> {
        let sha256: TokenHash = self.sha256.parse().ok()?;
        Some(Page { id: self.id, name: page_name(&self.name)?, role: self.role, sha256, paired_at_ms: self.paired_at_ms })
    }
}

/// A page's name: that of a terminal, but shorter.
pub fn page_name(text: &str) -> Option<Name> {
    text.parse().ok().filter(|_| text.len() <= PAGE_NAME_LEN_MAX)
}

/// The pages of the file, none if there is no file.
///
/// # Errors
/// What is wrong with the file, and where it is kept now: nobody is paired.
pub fn load(file: &Path) -> Result<Vec<Page>, String> {
    let text = match std::fs::metadata(file) {
        Ok(found) if found.len() > FILE_BYTES_MAX => Err(format!("it has {} bytes", found.len())),
        Ok(_) => std::fs::read_to_string(file).map_err(|e| e.to_string()),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => Err(e.to_string()),
    };
    let read = text.and_then(|text| {
        let records: Records = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let pages: Option<Vec<Page>> = records.pages.into_iter().map(Record::read).collect();
        pages.filter(|pages| records.version == VERSION && pages.len() <= PAGES_MAX).ok_or_else(|| "it is none of this version's".into())
    });
    read.map_err(|why: String| {
        let aside = (1_u32..).map(|n| file.with_extension(format!("damaged-{n}"))).find(|path| !path.exists());
        let aside = aside.unwrap_or_else(|| file.with_extension("damaged"));
        let kept = match std::fs::rename(file, &aside) {
            Ok(()) => format!("it is kept as {}", aside.display()),
            Err(error) => format!("it could not be moved aside: {error}"),
        };
        format!("{} cannot be read: {why}; {kept}. No page is paired: pair them again with dumbwaiter pair", file.display())
    })
}

fn random<const N: usize>() -> Result<[u8; N], Refused> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Refused::NotWritten(format!("the system gives no random bytes: {e}")))?;
    Ok(bytes)
}

/// Every number as likely as any other.
fn random_below(end: u32) -> Result<u32, Refused> {
    let fair = u32::MAX - u32::MAX % end;
    loop {
        let number = u32::from_le_bytes(random()?);
        if number < fair {
            return Ok(number % end);
        }
    }
}

fn random_hex(len: usize) -> Result<String, Refused> {
    let bytes: [u8; COOKIE_BYTES] = random()?;
    Ok(bytes[..len].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn pairing(folder: &Path) -> Pairing {
        let keys = KeyRing::default();
        keys.pair(load(&folder.join("pages.json")).unwrap());
        Pairing::new(keys, Some(folder.join("pages.json")), Arc::default())
    }

    fn from(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    async fn pair(pairing: &Pairing, code: &str, name: &str, address: u8, now: Instant) -> Result<(String, Role), Refused> {
        pairing.pair(code, name.parse().unwrap(), None, from(address), (now, Some(7))).await
    }

    #[tokio::test]
    async fn a_code_pairs_one_page_which_outlives_a_restart_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let (house, now) = (pairing(folder.path()), Instant::now());
        let code = house.new_code(Role::Kitchen, MINUTE, now).unwrap();
        assert!(code.len() == 6 && code.bytes().all(|digit| digit.is_ascii_digit()));
        let (cookie, role) = pair(&house, &format!("{} {}", &code[..3], &code[3..]), "grill", 1, now).await.unwrap();
        assert_eq!(role, Role::Kitchen);
        assert_eq!(pair(&house, &code, "bar", 1, now).await, Err(Refused::Wrong), "one use");
        let text = std::fs::read_to_string(folder.path().join("pages.json")).unwrap();
        assert!(!text.contains(&cookie) && text.contains("grill"), "{text}");

        let again = pairing(folder.path());
        let page = again.keys.now().of_cookie(cookie.as_bytes()).cloned().unwrap();
        assert_eq!((page.name.as_str(), page.role, page.paired_at_ms), ("grill", Role::Kitchen, Some(7)));
        assert_eq!((again.revoke("ffff").await, again.revoke(&page.id).await), (Ok(false), Ok(true)));
        assert!(again.keys.now().of_cookie(cookie.as_bytes()).is_none());
        assert_eq!(load(&folder.path().join("pages.json")), Ok(vec![]));
    }

    #[tokio::test]
    async fn a_code_ends_with_its_time_and_with_ten_wrong_tries_from_wherever() {
        let folder = tempfile::tempdir().unwrap();
        let (house, now) = (pairing(folder.path()), Instant::now());
        let wrong = |code: &str| if code == "000000" { "000001" } else { "000000" };
        let late = house.new_code(Role::Kitchen, MINUTE, now).unwrap();
        assert_eq!(pair(&house, &late, "grill", 1, now + MINUTE).await, Err(Refused::Wrong));
        let code = house.new_code(Role::Kitchen, MINUTE, now).unwrap();
        for n in 0..9 {
            assert_eq!(pair(&house, wrong(&code), "grill", 10 + n, now).await, Err(Refused::Wrong));
        }
        assert_eq!(house.usage.pairing_codes.used.get(), 1, "nine wrong tries leave it valid");
        assert_eq!(pair(&house, wrong(&code), "grill", 20, now).await, Err(Refused::Wrong));
        assert_eq!(pair(&house, &code, "grill", 1, now).await, Err(Refused::Wrong));
        assert_eq!(house.usage.pairing_wrong.get(), 12);
    }

    #[tokio::test]
    async fn one_address_has_five_tries_right_or_wrong_and_one_more_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let (house, now) = (pairing(folder.path()), Instant::now());
        for _ in 0..5 {
            assert_eq!(pair(&house, "12345", "grill", 1, now).await, Err(Refused::Wrong));
        }
        let code = house.new_code(Role::Board, MINUTE, now).unwrap();
        assert_eq!(pair(&house, &code, "grill", 1, now).await, Err(Refused::TooOften(MINUTE)), "a right code, too");
        assert_eq!(house.usage.pairing_addresses.refused.get(), 1);
        let code = house.new_code(Role::Board, 5 * MINUTE, now).unwrap();
        assert!(pair(&house, &code, "grill", 1, now + MINUTE).await.is_ok());
    }

    #[tokio::test]
    async fn codes_pages_and_names_are_bounded_and_a_refusal_uses_no_code_up() {
        let folder = tempfile::tempdir().unwrap();
        let (house, now) = (pairing(folder.path()), Instant::now());
        let codes: Vec<_> = (0..CODES_MAX).map(|_| house.new_code(Role::Board, MINUTE, now).unwrap()).collect();
        assert_eq!(house.new_code(Role::Board, MINUTE, now), Err(Refused::Full));
        pair(&house, &codes[0], "grill", 1, now).await.unwrap();
        assert_eq!(pair(&house, &codes[1], "Grill", 2, now).await, Err(Refused::Taken));
        let own = house.keys.now().pages[0].clone();
        let again = house.pair(&codes[1], own.name.clone(), Some(&own), from(3), (now, None)).await;
        assert!(again.is_ok() && house.keys.now().pages.len() == 1, "a page that is paired anew is one page");

        let full = (0..PAGES_MAX).map(|n| Page { name: format!("page-{n}").parse().unwrap(), ..own.clone() }).collect();
        house.keys.pair(full);
        assert_eq!(pair(&house, &codes[2], "bar", 4, now).await, Err(Refused::Full));
        house.keys.pair(vec![]);
        assert!(pair(&house, &codes[2], "bar", 5, now).await.is_ok());
    }

    #[tokio::test]
    async fn who_cannot_be_written_down_is_not_paired_and_who_is_revoked_is_out_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (house, now) = (pairing(folder.path()), Instant::now());
        let code = house.new_code(Role::Board, MINUTE, now).unwrap();
        let (cookie, _) = pair(&house, &code, "grill", 1, now).await.unwrap();
        let id = house.keys.now().pages[0].id.clone();
        let code = house.new_code(Role::Board, MINUTE, now).unwrap();
        folder.close().unwrap();
        assert!(matches!(pair(&house, &code, "bar", 1, now).await, Err(Refused::NotWritten(_))));
        assert_eq!(house.keys.now().pages.len(), 1);
        assert!(matches!(house.revoke(&id).await, Err(Refused::NotWritten(_))));
        assert!(house.keys.now().of_cookie(cookie.as_bytes()).is_none());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_kept_aside_and_nobody_is_paired() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pages.json");
        for (n, text) in ["", "{", "{\"version\":2,\"pages\":[]}", "{\"version\":1,\"pages\":[{\"id\":\"a\"}]}"].into_iter().enumerate() {
            std::fs::write(&file, text).unwrap();
            let why = load(&file).unwrap_err();
            let aside = folder.path().join(format!("pages.damaged-{}", n + 1));
            assert!(why.contains(&aside.display().to_string()) && why.contains("dumbwaiter pair"), "{why}");
            assert_eq!(std::fs::read_to_string(&aside).unwrap(), text);
            assert_eq!(load(&file), Ok(vec![]));
        }
    }

    #[test]
    fn every_code_is_as_likely_as_any_other() {
        let mut tens = [0_u32; 10];
        for _ in 0..10_000 {
            tens[usize::try_from(random_below(CODES).unwrap() / 100_000).unwrap()] += 1;
        }
        assert!(tens.iter().all(|count| (800..1_200).contains(count)), "{tens:?}");
    }
}
