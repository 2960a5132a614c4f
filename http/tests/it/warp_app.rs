//! warp filters as a service under the layer, over a real socket.

use bytes::Bytes;
use http::StatusCode;
use warp::Filter as _;

use crate::support::{BOTH, Count, layer, post, send, serve_hyper};

#[tokio::test]
async fn a_filter_is_run_once_and_replayed() {
    for http in BOTH {
        let count = Count::default();
        let counting = count.clone();
        let charges = warp::post().and(warp::path!("charges" / u32)).and(warp::body::bytes()).map(
            move |account: u32, body: Bytes| {
                let n = counting.up();
                let text = format!("charge {n} of {} for {account}", std::str::from_utf8(&body).unwrap());
                let reply = warp::reply::with_status(text, StatusCode::CREATED);
                warp::reply::with_header(reply, "x-charge", "ch_1")
            },
        );
        let service = tower::Layer::layer(&layer().build().unwrap(), warp::service(charges));
        let served = serve_hyper(service, http == crate::support::Http::Two).await;
        for replayed in [false, true] {
            let got = send(served.addr, http, post("/charges/7", "k", "50")).await;
            assert_eq!((got.status.as_u16(), got.text()), (201, "charge 1 of 50 for 7"));
            assert_eq!((got.replayed(), &got.headers["x-charge"]), (replayed, &"ch_1".parse().unwrap()));
        }
        assert_eq!(count.get(), 1);
        assert_eq!(send(served.addr, http, post("/charges/7", "k", "51")).await.problem(), "mismatch");
        // The path is the route, and a rejection is a response like another.
        for replayed in [false, true] {
            let lost = send(served.addr, http, post("/lost", "k", "50")).await;
            assert_eq!((lost.status.as_u16(), lost.replayed()), (404, replayed));
        }
        assert_eq!(count.get(), 1);
    }
}
