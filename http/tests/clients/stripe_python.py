"""Stripe's client for Python, as an application would set it up."""

import json

import stripe

from given import BASE, RETRIES, TIMEOUT_SECONDS, run

stripe.api_base = BASE
stripe.api_key = "sk_test_of_nobody"
stripe.max_network_retries = RETRIES
stripe.default_http_client = stripe.RequestsClient(timeout=TIMEOUT_SECONDS)


def ask(name, key):
    # Without a key of ours the client makes one for each call, and keeps it for the retries of that call only.
    given = {"idempotency_key": key} if key else {}
    charge = stripe.Charge.create(amount=50, currency="eur", source="tok_visa", description=name, **given)
    return charge.last_response.code, json.dumps(charge.to_dict())


def broken(error):
    # A reply that breaks off in its body is raised at once, and one that breaks off in its head as an `APIError` with the
    # status of a success.
    return isinstance(error, stripe.APIConnectionError) or (error.http_status or 500) < 300


run(ask, broken)
