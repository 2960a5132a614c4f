use std::time::Duration;

use http::HeaderValue;
use oncekey::{Deduplicator, MemoryStore};

use crate::{Builder, IdempotencyLayer, LayerError, Principal, Route};

fn without_route() -> Builder<MemoryStore> {
    IdempotencyLayer::builder(Deduplicator::new(MemoryStore::new()), Principal::waived())
}

fn builder() -> Builder<MemoryStore> {
    without_route().route(Route::path())
}

/// axum leaves the path that the client sent in the request. Without it, nobody tells two mounts of
/// one router apart.
#[test]
fn the_route_has_a_default_only_where_that_tells_mounts_apart() {
    let built = without_route().run_in_request().build().err();
    assert_eq!(built, (!cfg!(feature = "axum")).then_some(LayerError::NoRoute));
    let found = Route::from_request(|parts| Some(Route::path_of(parts).to_owned()));
    assert!(without_route().route(found).run_in_request().build().is_ok());
}

#[test]
fn what_cannot_be_carried_out_is_refused_when_the_layer_is_built() {
    let ready = || builder().run_in_request();
    assert!(ready().build().is_ok());
    assert_eq!(ready().namespace("").build().err(), Some(LayerError::Namespace));
    assert_eq!(ready().budget(Duration::ZERO).build().err(), Some(LayerError::Budget));
    for budget in [Duration::from_nanos(1), Duration::MAX] {
        assert!(ready().budget(budget).build().is_ok());
    }
    let too_much = ready().response_body_max((1 << 29) + 1).build().err();
    assert!(matches!(too_much, Some(LayerError::TooMuch { option: "response_body_max", .. })));
    assert!(ready().response_body_max(1 << 29).build().is_ok());
}

#[cfg(not(feature = "tokio"))]
#[test]
fn somebody_must_say_where_handlers_go_on() {
    assert_eq!(builder().build().err(), Some(LayerError::NoSpawner));
    assert!(builder().spawner(drop).build().is_ok());
}

#[cfg(feature = "tokio")]
#[test]
fn tokio_is_where_handlers_go_on_by_default() {
    assert!(builder().build().is_ok());
}

/// The draft's section 2.7, and nothing that would end the link or the field.
#[test]
fn documentation_is_a_link() {
    let layer = builder().run_in_request().documentation("https://pay.example/docs#keys").build().unwrap();
    let link = r#"<https://pay.example/docs#keys>; rel="describedby"; type="text/html""#;
    assert_eq!(layer.options().documentation, Some(HeaderValue::from_static(link)));
    for url in ["a>b", "a<b", "a b", "a\nb", "a\u{7f}b"] {
        let refused = builder().run_in_request().documentation(url).build().err();
        assert_eq!(refused, Some(LayerError::Documentation { url: url.to_owned() }));
    }
}
