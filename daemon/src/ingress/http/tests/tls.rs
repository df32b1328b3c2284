//! Who does not finish a handshake.

use super::house::{House, soon};
use crate::config::{Config, Environment};
use crate::ingress::http::{Limits, Settings, Tls};
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::X509Builder;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What a listener shows, and nobody looks at here.
fn tls() -> Tls {
    let folder = tempfile::tempdir().unwrap();
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut builder = X509Builder::new().unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    std::fs::write(folder.path().join("cert.pem"), builder.build().to_pem().unwrap()).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let path = folder.path().join("dumbwaiter.toml");
    std::fs::write(&path, "gateway.id = 'g'\n[http]\ntls_cert = 'cert.pem'\ntls_key = 'key.pem'").unwrap();
    Tls::new(&Config::load(&path, &Environment::default()).unwrap().http.tls.unwrap()).unwrap()
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go_and_counted() {
    let limits = Limits { handshake_time: Duration::from_millis(50), ..Limits::default() };
    let house = House::open_with(Settings { tls: Some(tls()), limits, ..Settings::default() }).await;
    let mut silent = TcpStream::connect(house.address).await.unwrap();
    assert_eq!(soon("the connection ends", silent.read(&mut [0; 1])).await.unwrap(), 0);
    assert_eq!((house.usage.tls_late.get(), house.usage.tls_failed.get()), (1, 0));
}
