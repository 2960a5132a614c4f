//! Each client, while every second reply is lost in some way: one effect for each operation, and its response in the client's
//! hands.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::post as on_post;
use axum::{Json, Router};
use http::StatusCode;
use oncekey::Deduplicator;
use oncekey_http::problems::stripe_like;
use oncekey_sqlite::SqliteStore;
use oncekey_store_testing::proxy::{Mode, Proxy};
use serde_json::{Value, json};

use super::program::{Settings, Told};
use super::{Asked, Client, Ledger, name};
use crate::support::{Count, Served, layer_over, serve};

/// For how long clients wait for a reply.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// How late replies are that are delayed, and how long a slow operation takes: no client waits for that.
const LATE: Duration = Duration::from_secs(3);
/// More than a client will ever need: what is asked is whether it gets there.
const RETRIES: u32 = 40;

const OPERATIONS: usize = 24;

/// What becomes of requests, in turn.
const FAULTS: [Mode; 15] = [
    Mode::DropAnswers,
    Mode::Pass,
    Mode::CutAnswers,
    Mode::Pass,
    Mode::ResetAnswers,
    Mode::Pass,
    Mode::DelayAnswers(LATE),
    Mode::Pass,
    Mode::Reset,
    Mode::CutAnswers,
    Mode::Pass,
    Mode::DropAnswers,
    Mode::Pass,
    // After the status line, in the middle of a field.
    Mode::CutAnswersAfter(30),
    Mode::Pass,
];
/// Long enough for each operation to meet one.
const FAULTY_TURNS: usize = 4 * FAULTS.len();

#[derive(Clone)]
struct Bank {
    /// The responses of the effects that were carried out.
    charges: Arc<Ledger<Value>>,
    number: Count,
    /// How many replies said that the first request was in progress.
    conflicts: Count,
}

impl Bank {
    fn new() -> Self {
        Self { charges: Arc::new(Ledger::new()), number: Count::default(), conflicts: Count::default() }
    }

    /// With the layer if there is a store.
    async fn serve(&self, store: Option<SqliteStore>, stripes: bool) -> Served {
        let mut app = Router::new().route("/v1/charges", on_post(charge));
        if let Some(store) = store {
            let layer = layer_over(Deduplicator::new(store)).required();
            let layer = if stripes { layer.problems(stripe_like()) } else { layer };
            app = app.route_layer(layer.build().unwrap());
        }
        let conflicts = middleware::from_fn_with_state(self.clone(), count_conflicts);
        serve(app.layer(conflicts).with_state(self.clone())).await
    }
}

async fn charge(State(bank): State<Bank>, form: String) -> (StatusCode, Json<Value>) {
    let name = name(&form);
    let id = format!("ch_{:04}", bank.number.up());
    // Long enough for half of a reply to be more than its head.
    let response =
        json!({ "id": id, "object": "charge", "description": name, "statement": "x".repeat(1500) });
    bank.charges.write(&name, response.clone());
    if name.starts_with("slow") {
        tokio::time::sleep(LATE).await;
    }
    (StatusCode::CREATED, Json(response))
}

async fn count_conflicts(State(bank): State<Bank>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.status() == StatusCode::CONFLICT {
        bank.conflicts.up();
    }
    response
}

/// What came of a drill.
struct Outcome {
    told: Vec<Told>,
    bank: Bank,
    requests: usize,
    requests_lost: usize,
    replies_lost: usize,
}

/// Lets a client carry out the operations, through the faults.
async fn drill(
    client: Client,
    layer: bool,
    faults: &'static [Mode],
    keys: impl Fn(usize) -> String,
) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let bank = Bank::new();
    let store = layer.then(|| SqliteStore::open(folder.path().join("keys.db")).unwrap());
    let served = bank.serve(store, client.is_stripes()).await;
    let proxy = Proxy::start(served.addr);
    proxy.by_turns(faults.iter().copied().cycle().take(FAULTY_TURNS));
    let operations: Vec<_> = (0..OPERATIONS)
        .map(|n| Asked {
            // Without the layer, an operation that is slower than its client waits has no end.
            name: if layer && n % 8 == 7 { format!("slow-{n}") } else { format!("charge-{n}") },
            key: keys(n),
        })
        .collect();
    let settings = Settings { base: format!("http://{}", proxy.addr()), timeout: TIMEOUT, retries: RETRIES };
    let told = client.run(&settings, &operations).await;
    let (requests, replies_lost) = (proxy.round_trips(), proxy.answers_lost());
    Outcome { told, bank, requests, requests_lost: proxy.faulted() - replies_lost, replies_lost }
}

impl Outcome {
    fn effects(&self) -> usize {
        self.told.iter().map(|told| self.bank.charges.of(&told.name).len()).sum()
    }

    /// The client's line of the table, past the capture of the test's output: the run is to show it.
    fn print(&self, client: Client) {
        let asked_again: u32 = self.told.iter().map(|told| told.asked_again).sum();
        let line = format!(
            "{:<20} {OPERATIONS:>3} operations, {:>3} requests, {:>2} of them lost, {:>2} replies lost, {:>2} times in \
             progress, {asked_again:>2} times asked again by the caller, {:>3} effects\n",
            client.name(),
            self.requests,
            self.requests_lost,
            self.replies_lost,
            self.bank.conflicts.get(),
            self.effects(),
        );
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }

    /// One effect for each operation, and its response in the client's hands.
    fn check(&self) {
        for told in &self.told {
            let charges = self.bank.charges.of(&told.name);
            assert_eq!(charges.len(), 1, "effects of one operation: {charges:?}, {told:?}");
            assert_eq!((told.status, told.error.as_str()), (201, ""), "{told:?}");
            let response: Value = serde_json::from_str(&told.body).unwrap();
            assert_eq!(response, charges[0], "the recorded response");
        }
        assert_eq!(self.effects(), OPERATIONS);
        assert!(self.replies_lost >= OPERATIONS / 2, "{} replies were lost", self.replies_lost);
        assert!(self.requests >= OPERATIONS + self.requests_lost, "what is lost is asked for again");
    }
}

async fn one_effect_each(client: Client, faults: &'static [Mode], keys: impl Fn(usize) -> String) {
    let outcome = drill(client, true, faults, keys).await;
    outcome.print(client);
    outcome.check();
}

/// The key is the caller's, so that it can ask again whatever its client raised.
async fn with_keys(client: Client) {
    one_effect_each(client, &FAULTS, |n| format!("key-{n}")).await;
}

#[tokio::test]
async fn stripes_client_for_python_has_one_effect_each() {
    with_keys(Client::StripePython).await;
}

#[tokio::test]
async fn stripes_client_for_node_has_one_effect_each() {
    with_keys(Client::StripeNode).await;
}

#[tokio::test]
async fn requests_with_urllib3s_retry_has_one_effect_each() {
    with_keys(Client::Requests).await;
}

#[tokio::test]
async fn httpx_with_retries_has_one_effect_each() {
    with_keys(Client::Httpx).await;
}

#[tokio::test]
async fn undici_with_its_interceptor_has_one_effect_each() {
    with_keys(Client::Undici).await;
}

#[tokio::test]
async fn curl_with_retries_has_one_effect_each() {
    with_keys(Client::Curl).await;
}

#[tokio::test]
async fn reqwest_with_reqwest_retry_has_one_effect_each() {
    with_keys(Client::Reqwest).await;
}

/// Stripe's clients make a key for each call, and keep it while they retry. They raise a reply that breaks off in its body;
/// its key is lost then, so there is none here.
const WHAT_STRIPES_RETRY: [Mode; 8] = [
    Mode::DropAnswers,
    Mode::Pass,
    Mode::ResetAnswers,
    Mode::Pass,
    Mode::DelayAnswers(LATE),
    Mode::ResetAnswers,
    Mode::Reset,
    Mode::Pass,
];

#[tokio::test]
async fn stripes_clients_have_one_effect_each_with_keys_of_their_own() {
    for client in [Client::StripePython, Client::StripeNode] {
        one_effect_each(client, &WHAT_STRIPES_RETRY, |_| String::new()).await;
    }
}

/// That the drill can find a second effect.
#[tokio::test]
async fn without_the_layer_the_same_drill_has_second_effects() {
    let outcome = drill(Client::Reqwest, false, &FAULTS, |n| format!("key-{n}")).await;
    assert!(outcome.effects() > OPERATIONS, "{} effects", outcome.effects());
}
