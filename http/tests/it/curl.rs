//! A client that everybody has.

use axum::Router;
use axum::routing::post as on_post;
use tokio::process::Command;

use crate::support::{Count, Served, layer, serve};

async fn curl(served: &Served, args: &[&str]) -> String {
    let url = format!("http://{}/charges", served.addr);
    let output =
        Command::new("curl").args(["-sS", "-i", "--max-time", "120"]).args(args).arg(url).output().await;
    let output = output.expect("curl does not run: install it (Debian's package `curl`)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn curl_gets_the_same_response_again() {
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let count = Count::default();
        let counting = count.clone();
        let handler = move |body: String| async move { format!("charge {} of {body}", counting.up()) };
        let app =
            Router::new().route("/charges", on_post(handler)).layer(layer().required().build().unwrap());
        let served = serve(app).await;
        let first = curl(&served, &[version, "-H", "Idempotency-Key: \"k-1\"", "-d", "cents=5000"]).await;
        assert!(first.contains(" 200") && first.ends_with("charge 1 of cents=5000"), "{first}");
        assert!(!first.contains("idempotent-replayed"), "{first}");
        // Bare, and chunked where the version has that.
        let mut args = vec![version, "-H", "Idempotency-Key: k-1", "-d", "cents=5000"];
        if version == "--http1.1" {
            args.extend(["-H", "Transfer-Encoding: chunked"]);
        }
        let again = curl(&served, &args).await;
        assert!(again.contains("idempotent-replayed: true\r\n"), "{again}");
        assert!(again.ends_with("charge 1 of cents=5000"), "{again}");
        let other = curl(&served, &[version, "-H", "Idempotency-Key: k-1", "-d", "cents=1"]).await;
        assert!(other.contains(" 422") && other.contains("application/problem+json"), "{other}");
        // Without a body: curl takes it badly if a stream that it still sends on is answered and reset (RFC 9113, section
        // 8.1), as HTTP/2 servers do that do not read a body.
        let none = curl(&served, &[version, "-X", "POST"]).await;
        assert!(none.contains(" 400") && none.contains("key-missing"), "{none}");
        // curl leaves a field with an empty value out, unless it ends in a semicolon.
        let empty = curl(&served, &[version, "-H", "Idempotency-Key;", "-X", "POST"]).await;
        assert!(empty.contains(" 400") && empty.contains("key-malformed"), "{empty}");
        assert_eq!(count.get(), 1);
    }
}
