//! A visitor who leaves while the bank is busy.

use std::sync::Arc;

use axum::body::Body;
use futures::FutureExt as _;
use http::Request;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use crate::app;
use crate::bank::Bank;
use crate::driver::PATIENCE;
use crate::till::engine;

/// The bank learns of the customer by a task-local, which an outer layer set around the request.
#[test]
fn a_charge_names_its_customer_though_the_visitor_has_left() {
    let (dedup, bank) = (engine(), Arc::new(Bank::in_memory()));
    let closed = bank.closed();
    let runtime = Runtime::new().unwrap();
    let request = Request::post("/charges")
        .header("idempotency-key", "key")
        .header("content-type", "application/json")
        .header("cookie", "visitor=0123456789abcdef0123456789abcdef")
        .body(Body::from(r#"{"order": "o", "amount_cents": 5000}"#))
        .unwrap();
    let mut asked = Box::pin(app::shop(&dedup, &bank).unwrap().oneshot(request));
    runtime.block_on(async {
        while dedup.held() == 0 {
            assert!((&mut asked).now_or_never().is_none(), "the bank is closed");
            tokio::task::yield_now().await;
        }
        // As the server does when the connection ends.
        drop(asked);
    });
    drop(closed);
    let mut ledger = bank.ledger();
    let charged = async { tokio::time::timeout(PATIENCE, ledger.changed()).await };
    runtime.block_on(charged).expect("the handler runs to its end").unwrap();
    let charges = ledger.borrow().clone();
    assert_eq!(charges.len(), 1);
    assert_eq!(charges[0].customer.as_deref(), Some("0123"));
}
