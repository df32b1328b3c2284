//! The HTTP listener by TLS: with a certificate that is renewed while it runs.

use crate::house::{Answer, House, PATIENCE, dumbwaiter, http, wait_for};
use native_tls::{Certificate, TlsConnector};
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509Builder, X509NameBuilder};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Writes a new certificate of its own authority for 127.0.0.1, and its key; gives the certificate.
fn renew(house: &House, name: &str) -> Vec<u8> {
    let group = openssl::ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("a curve");
    let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&group).expect("a key")).expect("a key");
    let mut names = X509NameBuilder::new().expect("a name");
    names.append_entry_by_text("CN", name).expect("a name");
    let names = names.build();
    let mut builder = X509Builder::new().expect("a certificate");
    builder.set_version(2).expect("version 3");
    builder.set_subject_name(&names).expect("a name");
    builder.set_issuer_name(&names).expect("a name");
    builder.set_pubkey(&key).expect("a key");
    builder.set_not_before(&Asn1Time::days_from_now(0).expect("a time")).expect("a time");
    builder.set_not_after(&Asn1Time::days_from_now(90).expect("a time")).expect("a time");
    let hosts = SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None)).expect("an extension");
    builder.append_extension(hosts).expect("an extension");
    builder.sign(&key, MessageDigest::sha256()).expect("a signature");
    let pem = builder.build().to_pem().expect("PEM");
    let write = |file: &str, bytes: &[u8]| std::fs::write(house.folder.path().join(file), bytes).expect("the folder is writable");
    write("cert.pem", &pem);
    // As OpenSSL's own commands write the key of a curve.
    write("key.pem", &key.ec_key().and_then(|key| key.private_key_to_pem()).expect("PEM"));
    pem
}

/// One request by TLS of who trusts this certificate and no other; `None` if it is not shown.
fn ask(house: &House, trusted: &[u8], request: &str) -> Option<String> {
    let connector = TlsConnector::builder()
        .disable_built_in_roots(true)
        .add_root_certificate(Certificate::from_pem(trusted).expect("PEM"))
        .build()
        .expect("a TLS client");
    let stream = TcpStream::connect(house.http).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let mut stream = connector.connect("127.0.0.1", stream).ok()?;
    stream.write_all(request.replace("HOST", &house.http.to_string()).as_bytes()).expect("it is taken");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    Some(text)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n")
}

#[test]
fn a_certificate_is_renewed_by_a_reload_and_a_wrong_one_is_not_taken() {
    let mut house = House::new("tls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n");
    let first = renew(&house, "first");
    house.spawn();
    let config = house.config();
    let config = config.to_str().expect("a plain path");
    wait_for("the daemon to answer by TLS", || dumbwaiter(&["status", "--config", config]).status.success().then_some(()));
    let health = ask(&house, &first, &get("/health")).expect("it shows its certificate");
    assert!(health.starts_with("HTTP/1.1 200 OK"), "{health}");

    let plain: Answer = http(house.http, "GET", "/health", &[], b"").expect("an answer");
    assert!(plain.status == 400 && plain.body.contains("https"), "{plain:?}");
    let metrics = ask(&house, &first, &get("/metrics")).expect("metrics");
    assert!(metrics.contains("dumbwaiter_http_tls_refused_total{reason=\"plain\"} 1\n"), "{metrics}");
    let days = metrics.lines().find(|line| line.contains("dumbwaiter_certificate_days{certificate=\"http.tls_cert\"}"));
    assert!(days.is_some_and(|line| line.ends_with(" 89") || line.ends_with(" 90")), "{days:?}");

    let asked = dumbwaiter(&["pair", "--json", "--config", config]);
    let code: serde_json::Value = serde_json::from_slice(&asked.stdout).expect("a line of JSON");
    let form = format!("code={}&name=grill", code["code"].as_str().expect("a code"));
    let head =
        "POST /pair HTTP/1.1\r\nHost: HOST\r\nOrigin: https://HOST\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded";
    let paired = ask(&house, &first, &format!("{head}\r\nContent-Length: {}\r\n\r\n{form}", form.len())).expect("an answer");
    assert!(paired.starts_with("HTTP/1.1 303") && paired.contains("HttpOnly; SameSite=Strict; Secure"), "{paired}");

    let second = renew(&house, "second");
    house.reload();
    wait_for("the renewed certificate", || ask(&house, &second, &get("/ready")));
    assert!(ask(&house, &first, &get("/ready")).is_none());
    let key = std::fs::read(house.folder.path().join("key.pem")).expect("the key");
    renew(&house, "third");
    std::fs::write(house.folder.path().join("key.pem"), key).expect("the folder is writable");
    house.reload();
    wait_for("the reload to be refused", || house.log().contains("is not the key of").then_some(()));
    assert!(ask(&house, &second, &get("/ready")).is_some(), "what was shown before is shown still");
    let check = dumbwaiter(&["check", "--config", config]);
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.code() == Some(2) && said.contains("http.tls_key: ") && said.contains("is not the key of"), "{said}");
    house.stop();
}
