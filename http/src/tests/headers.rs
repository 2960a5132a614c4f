use http::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use crate::KeptHeaders;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    };
    let mut map = HeaderMap::new();
    fields.iter().map(field).for_each(|(name, value)| {
        map.append(name, value);
    });
    map
}

const ALL: [(&str, &str); 8] = [
    ("content-type", "text/plain"),
    ("etag", "\"1\""),
    ("set-cookie", "a=1"),
    ("x-hop", "mine"),
    ("link", "</1>"),
    ("link", "</2>"),
    ("trailer", "x-sum"),
    ("vary", "accept"),
];

#[test]
fn what_is_kept_by_default_and_by_choice() {
    let all_but = |left_out: &[&str]| {
        map(&ALL.into_iter().filter(|(name, _)| !left_out.contains(name)).collect::<Vec<_>>())
    };
    let only =
        |named: &[&str]| map(&ALL.into_iter().filter(|(name, _)| named.contains(name)).collect::<Vec<_>>());
    for (kept, expected) in [
        (KeptHeaders::default(), all_but(&["set-cookie"])),
        (KeptHeaders::all_but([]), all_but(&[])),
        (KeptHeaders::all_but([ETAG]), all_but(&["etag"])),
        (KeptHeaders::only([]), HeaderMap::new()),
        (KeptHeaders::only([CONTENT_TYPE, SET_COOKIE]), only(&["content-type", "set-cookie"])),
    ] {
        assert_eq!(kept.pick(&map(&ALL)), expected, "{kept:?}");
    }
}

#[test]
fn several_values_stay_in_their_order() {
    let picked = KeptHeaders::default().pick(&map(&ALL));
    assert_eq!(picked.get_all("link").iter().collect::<Vec<_>>(), ["</1>", "</2>"]);
}

/// RFC 9110, section 7.6.1, and what the server writes anew: not even when asked for by name.
#[test]
fn what_is_about_one_connection_is_never_kept() {
    let never = [
        ("connection", "close, X-Hop ,keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authenticate", "Basic"),
        ("proxy-authorization", "Basic eDp5"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("content-length", "3"),
        ("date", "Tue, 15 Nov 1994 08:12:31 GMT"),
        ("x-hop", "named by Connection"),
    ];
    let names = never.iter().map(|(name, _)| name.parse::<HeaderName>().unwrap());
    for kept in [KeptHeaders::only(names), KeptHeaders::all_but([]), KeptHeaders::default()] {
        assert_eq!(kept.pick(&map(&never)), HeaderMap::new(), "{kept:?}");
    }
}

/// A reply of gRPC without its status is half a reply.
#[test]
fn the_status_of_grpc_is_always_kept() {
    let fields = map(&[("grpc-status", "5"), ("grpc-message", "no such account")]);
    let status: HeaderName = "grpc-status".parse().unwrap();
    for kept in [KeptHeaders::only([]), KeptHeaders::all_but([status.clone()])] {
        assert_eq!(kept.pick(&fields)[&status], "5", "{kept:?}");
    }
    assert!(!KeptHeaders::only([]).pick(&fields).contains_key("grpc-message"));
}
