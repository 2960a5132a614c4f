//! `reqwest`, with the middleware of reqwest-retry.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use http::StatusCode;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error};
use reqwest_retry::policies::ExponentialBackoff;
use reqwest_retry::{DefaultRetryableStrategy, RetryTransientMiddleware, Retryable, RetryableStrategy};

use super::program::{Asked, Settings, Told};

/// The default takes 409 and 425 for final.
struct AlsoConflicts;

impl RetryableStrategy for AlsoConflicts {
    fn handle(&self, got: &Result<reqwest::Response, Error>) -> Option<Retryable> {
        match got {
            Ok(response) if matches!(response.status(), StatusCode::CONFLICT | StatusCode::TOO_EARLY) => {
                Some(Retryable::Transient)
            }
            got => DefaultRetryableStrategy.handle(got),
        }
    }
}

fn client(settings: &Settings) -> ClientWithMiddleware {
    let plain = reqwest::Client::builder().timeout(settings.timeout).build().unwrap();
    let policy = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(100), Duration::from_secs(2))
        .build_with_max_retries(settings.retries);
    let retry = RetryTransientMiddleware::new_with_policy_and_strategy(policy, AlsoConflicts);
    ClientBuilder::new(plain).with(retry).build()
}

async fn ask(client: &ClientWithMiddleware, base: &str, asked: &Asked) -> Result<(u16, String), Error> {
    let response = client
        .post(format!("{base}/v1/charges"))
        .header("idempotency-key", &asked.key)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("amount=50&description={}", asked.name))
        .send()
        .await?;
    // The middleware ends where the head of a reply is there: a body that breaks off, or takes too long, is an error here.
    Ok((response.status().as_u16(), response.text().await?))
}

pub(super) async fn run(settings: &Settings, operations: &[Asked]) -> Vec<Told> {
    let client = client(settings);
    let operation = async |asked: &Asked| {
        let mut asked_again = 0;
        loop {
            let got = ask(&client, &settings.base, asked).await;
            if got.is_err() && asked_again < settings.retries {
                asked_again += 1;
                continue;
            }
            let error = if got.is_ok() { String::new() } else { "Error".to_owned() };
            let (status, body) = got.unwrap_or_else(|error| (0, error.to_string()));
            return Told { name: asked.name.clone(), status, error, asked_again, body };
        }
    };
    stream::iter(operations).map(operation).buffer_unordered(4).collect().await
}
