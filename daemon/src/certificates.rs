//! For how long the certificates that the config names are still good: told by a gauge, and in words from [`WARN_DAYS`] on.

use crate::attention::{Attention, Subject};
use crate::clock;
use crate::config::Config;
use crate::metrics::Metrics;
use jiff::Timestamp;
use openssl::asn1::Asn1Time;
use openssl::x509::{X509, X509Ref};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A certificate that expires within so many days is told of.
pub const WARN_DAYS: i64 = 30;
/// The files are looked at this often, and at each reload …
const LOOK: Duration = Duration::from_secs(3600);
/// … and this often while the clock is unknown.
const LOOK_FOR_CLOCK: Duration = Duration::from_secs(60);
const DAY_S: i64 = 24 * 60 * 60;

/// How a certificate of the config stands.
#[derive(Debug, PartialEq, Eq)]
pub struct Standing {
    /// The key that names its file.
    pub key: &'static str,
    /// Whole days until it expires, negative once it has; or why that cannot be told.
    pub days: Result<i64, String>,
    subject: String,
}

impl Standing {
    /// What to tell of it, if anything: what is wrong, and what to do.
    pub fn sentence(&self) -> Option<String> {
        let Standing { key, days, subject } = self;
        match days {
            Err(why) => Some(format!("{key}: {why}")),
            Ok(days) if *days < 0 => Some(format!("{key}: the certificate of {subject} has expired {} days ago: renew it", -days)),
            Ok(days) if *days <= WARN_DAYS => Some(format!("{key}: the certificate of {subject} expires in {days} days: renew it")),
            Ok(_) => None,
        }
    }

    /// It serves no more.
    pub fn is_wrong(&self) -> bool {
        self.days.as_ref().map_or(true, |days| *days < 0)
    }
}

/// Every certificate that the config names, at a wall time in Unix milliseconds.
pub fn standings(config: &Config, at_ms: i64) -> Vec<Standing> {
    let mut files: Vec<(&'static str, &Path, bool)> = vec![];
    if let Some(kafka) = &config.kafka {
        files.extend(kafka.ca_file.as_deref().map(|file| ("kafka.ca_file", file, true)));
        files.extend(kafka.certificate.as_ref().map(|own| ("kafka.cert_file", &*own.cert_file, false)));
    }
    if let Some(mqtt) = &config.mqtt {
        files.extend(mqtt.ca_file.as_deref().map(|file| ("mqtt.ca_file", file, true)));
    }
    files.extend(config.http.tls.as_ref().map(|tls| ("http.tls_cert", &*tls.cert, false)));
    files.into_iter().map(|(key, file, authorities)| standing(key, file, authorities, at_ms)).collect()
}

/// A chain is as good as its first certificate to expire. Of several authorities those that have expired already are passed over: one
/// that is still good may be all that is needed.
fn standing(key: &'static str, file: &Path, authorities: bool, at_ms: i64) -> Standing {
    let found = std::fs::read(file).map_err(|e| e.to_string()).and_then(|pem| {
        let read = X509::stack_from_pem(&pem).map_err(|e| e.to_string())?;
        read.iter().map(|certificate| Ok((days_left(certificate, at_ms)?, name(certificate)))).collect::<Result<Vec<_>, String>>()
    });
    let chosen = found.map(|each| {
        let good = |(days, _): &&(i64, String)| !authorities || *days >= 0;
        each.iter().filter(good).min().or(each.iter().max()).cloned()
    });
    match chosen {
        Ok(Some((days, subject))) => Standing { key, days: Ok(days), subject },
        Ok(None) => Standing { key, days: Err(format!("{} holds no certificate", file.display())), subject: String::new() },
        Err(why) => Standing { key, days: Err(format!("{} cannot be read: {why}", file.display())), subject: String::new() },
    }
}

fn days_left(certificate: &X509Ref, at_ms: i64) -> Result<i64, String> {
    // By its text: a time_t of 32 bits, as OpenSSL takes it on armv7, ends in 2038.
    let at = Timestamp::from_millisecond(at_ms).map_err(|e| e.to_string())?.strftime("%Y%m%d%H%M%SZ").to_string();
    let left = Asn1Time::from_str(&at).and_then(|at| at.diff(certificate.not_after())).map_err(|e| e.to_string())?;
    Ok((i64::from(left.days) * DAY_S + i64::from(left.secs)).div_euclid(DAY_S))
}

/// `CN = broker`, as far as the certificate has names.
fn name(certificate: &X509Ref) -> String {
    let entry = |entry: &openssl::x509::X509NameEntryRef| {
        let value = entry.data().to_string().ok()?;
        Some(format!("{}={value}", entry.object().nid().short_name().ok()?))
    };
    let names: Vec<_> = certificate.subject_name().entries().filter_map(entry).collect();
    names.join(", ")
}

/// Looks at them until `stop` is over.
pub async fn watch(mut config: watch::Receiver<Arc<Config>>, metrics: Metrics, attention: Attention, stop: impl Future<Output = ()>) {
    let serve = async {
        loop {
            let running = config.borrow_and_update().clone();
            let wait = match clock::wall_ms() {
                Some(at_ms) => {
                    let looked = tokio::task::spawn_blocking(move || standings(&running, at_ms));
                    tell(&looked.await.unwrap_or_default(), &metrics, &attention);
                    LOOK
                }
                None => LOOK_FOR_CLOCK,
            };
            // Without a reload there is nobody to change it any more.
            let changed = async {
                if config.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    };
    tokio::select! {
        () = serve => {}
        () = stop => {}
    }
}

fn tell(standings: &[Standing], metrics: &Metrics, attention: &Attention) {
    for Standing { key, days, .. } in standings {
        if let Ok(days) = days {
            metrics.certificate_days(key, *days);
        }
    }
    let sentences: Vec<_> = standings.iter().filter_map(Standing::sentence).collect();
    let sentence = (!sentences.is_empty()).then(|| sentences.join("; "));
    // It names the days: so it is said once a day.
    if attention.say(Subject::Certificates, sentence.clone())
        && let Some(what) = sentence
    {
        tracing::warn!(what, "certificates have to be renewed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;
    use openssl::x509::{X509Builder, X509NameBuilder};

    const NOW_MS: i64 = 1_767_225_600_000;

    /// A certificate that expires so many seconds from [`NOW_MS`].
    fn pem(name: &str, left_s: i64) -> String {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut names = X509NameBuilder::new().unwrap();
        names.append_entry_by_text("CN", name).unwrap();
        let names = names.build();
        let mut builder = X509Builder::new().unwrap();
        builder.set_subject_name(&names).unwrap();
        builder.set_issuer_name(&names).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(NOW_MS / 1000 + left_s).unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        String::from_utf8(builder.build().to_pem().unwrap()).unwrap()
    }

    fn of(ca: &str, own: &str) -> Vec<(&'static str, Option<i64>, bool)> {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("ca.pem", ca);
        write("own.pem", own);
        write("key.pem", "-----BEGIN PRIVATE KEY-----\n");
        let text =
            "gateway.id = 'g'\n[kafka]\nbrokers = 'k'\nsecurity = 'ssl'\nca_file = 'ca.pem'\ncert_file = 'own.pem'\nkey_file = 'key.pem'";
        write("dumbwaiter.toml", text);
        let config = Config::load(&folder.path().join("dumbwaiter.toml"), &Environment::default()).unwrap();
        standings(&config, NOW_MS).into_iter().map(|each| (each.key, each.days.clone().ok(), each.sentence().is_some())).collect()
    }

    #[test]
    fn what_expires_within_a_month_is_told() {
        let (soon, late) = (pem("soon", 30 * DAY_S + 5), pem("late", 31 * DAY_S));
        assert_eq!(of(&late, &soon), [("kafka.ca_file", Some(31), false), ("kafka.cert_file", Some(30), true)]);
        assert_eq!(of(&late, &pem("gone", -5))[1], ("kafka.cert_file", Some(-1), true));
        assert_eq!(of(&late, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")[1], ("kafka.cert_file", None, true));
    }

    #[test]
    fn a_chain_ends_with_its_first_but_an_old_authority_beside_a_good_one_does_not_count() {
        let (gone, soon, late) = (pem("gone", -9 * DAY_S), pem("soon", 5 * DAY_S), pem("late", 99 * DAY_S));
        let all = format!("{late}{soon}{gone}");
        assert_eq!(of(&all, &all), [("kafka.ca_file", Some(5), true), ("kafka.cert_file", Some(-9), true)]);
        assert_eq!(of(&gone, &late), [("kafka.ca_file", Some(-9), true), ("kafka.cert_file", Some(99), false)]);
    }
}
