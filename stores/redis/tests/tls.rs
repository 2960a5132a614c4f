//! TLS, with certificates made for the test.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use oncekey::store::{Exchange, Store as _};
use oncekey_redis::RedisStore;
use oncekey_store_testing::server::{Port, Redis};
use redis::{Client, ClientTlsConfig, TlsCertificates};
use support::*;

/// Runs `openssl` in a directory.
fn openssl(dir: &Path, command: &str) {
    let output = Command::new("openssl").args(command.split(' ')).current_dir(dir).output();
    let output = output.expect("this test makes certificates: install openssl (apt-get install openssl)");
    assert!(output.status.success(), "openssl {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a certificate by it for `localhost` and one for a client.
fn certificates(dir: &Path) {
    openssl(dir, "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=oncekey-ca -keyout ca.key -out ca.crt");
    fs::write(
        dir.join("server.ext"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n",
    )
    .unwrap();
    fs::write(dir.join("client.ext"), "basicConstraints=critical,CA:FALSE\n").unwrap();
    for name in ["server", "client"] {
        openssl(
            dir,
            &format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"),
        );
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out \
                 {name}.crt"
            ),
        );
    }
    // The server may run as another user.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    for file in fs::read_dir(dir).unwrap() {
        fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
}

fn start(dir: &Path, clients: &str) -> (Redis, Port, String) {
    let port = Port::free();
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let server = Redis::start_with(&[
        "--tls-port",
        &port.number().to_string(),
        "--tls-cert-file",
        &file("server.crt"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.crt"),
        "--tls-auth-clients",
        clients,
    ]);
    let url = format!("rediss://localhost:{}/", port.number());
    (server, port, url)
}

fn client(dir: &Path, url: &str, with_certificate: bool) -> Client {
    let file = |name: &str| fs::read(dir.join(name)).unwrap();
    let client_tls = with_certificate
        .then(|| ClientTlsConfig { client_cert: file("client.crt"), client_key: file("client.key") });
    Client::build_with_tls(url, TlsCertificates { client_tls, root_cert: Some(file("ca.crt")) }).unwrap()
}

async fn claims_once(store: &RedisStore) {
    assert!(matches!(claim(store, &key("1"), 1).await, Ok(Exchange::Done(_))));
    assert!(matches!(claim(store, &key("1"), 2).await, Ok(Exchange::Conflict(Some(_)))));
    let version = store.load(&key("1")).await.unwrap().unwrap().version;
    let at = oncekey::protocol::Expected::At(version);
    write(store, &key("1"), at, &completed(1, &[7; 100]), (HOUR, HOUR)).await;
}

#[test]
fn a_store_over_tls_trusts_its_authority_only() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    block_on(async {
        let (_server, _port, url) = start(dir.path(), "no");
        let builder = || builder().prefix(prefix());
        let store = builder().connect_client(client(dir.path(), &url, false)).await.unwrap();
        claims_once(&store).await;
        // The system does not know this authority.
        let stranger = builder().connect(url.as_str()).await.unwrap_err();
        assert!(format!("{stranger:?}").contains("UnknownIssuer"), "{stranger:?}");
        // Nor is a name that is not in the certificate taken.
        let url = url.replace("localhost", "127.0.0.2");
        builder().connect_client(client(dir.path(), &url, false)).await.unwrap_err();
    });
}

#[test]
fn a_server_may_ask_for_a_certificate_of_the_client() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    block_on(async {
        let (_server, _port, url) = start(dir.path(), "yes");
        let builder = || builder().prefix(prefix());
        builder().connect_client(client(dir.path(), &url, false)).await.unwrap_err();
        let store = builder().connect_client(client(dir.path(), &url, true)).await.unwrap();
        claims_once(&store).await;
    });
}
