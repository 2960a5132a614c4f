"""Python's httpx, with the transport of httpx-retries."""

import httpx
from httpx_retries import Retry, RetryTransport

from given import BASE, RETRIES, TIMEOUT_SECONDS, run

RETRY = Retry(
    total=RETRIES,
    backoff_factor=0.1,
    max_backoff_wait=5,
    # POST is not among them by default.
    allowed_methods=["POST"],
    status_forcelist=[409, 425, 429, 500, 502, 503, 504],
)
CLIENT = httpx.Client(base_url=BASE, timeout=TIMEOUT_SECONDS, transport=RetryTransport(retry=RETRY))


def ask(name, key):
    response = CLIENT.post(
        "/v1/charges",
        data={"amount": "50", "description": name},
        headers={"Idempotency-Key": key},
    )
    return response.status_code, response.text


# The transport ends where the head of a reply is there: a body that breaks off, or takes too long, is raised.
run(ask, lambda error: isinstance(error, httpx.TransportError))
