"""Python's `requests`, with urllib3's `Retry`."""

import threading

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from given import BASE, RETRIES, TIMEOUT_SECONDS, run

RETRY = Retry(
    total=RETRIES,
    backoff_factor=0.1,
    # POST is not among them by default.
    allowed_methods={"POST"},
    status_forcelist=[409, 425, 429, 500, 502, 503, 504],
    # The last response, rather than an error that hides it.
    raise_on_status=False,
)
LOCAL = threading.local()


def session():
    if not hasattr(LOCAL, "session"):
        LOCAL.session = requests.Session()
        LOCAL.session.mount("http://", HTTPAdapter(max_retries=RETRY))
    return LOCAL.session


def ask(name, key):
    response = session().post(
        f"{BASE}/v1/charges",
        data={"amount": "50", "description": name},
        headers={"Idempotency-Key": key},
        timeout=TIMEOUT_SECONDS,
    )
    return response.status_code, response.text


# `Retry` ends where the head of a reply is there: a body that breaks off, or takes too long, is raised.
run(ask, lambda error: isinstance(error, requests.exceptions.RequestException))
