"""What each client of Python's does: reads operations, runs four at a time, and writes what came of them.

A line of the input is the name of an operation and its key, with a tab between them. A line of the output is the name, the
status, the class of the error that the client raised (empty if none), how often the caller had to ask again, and the body.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

BASE = sys.argv[1]
TIMEOUT_SECONDS = float(sys.argv[2])
RETRIES = int(sys.argv[3])


def run(ask, broken):
    """`ask(name, key)` gives a status and a body. After an error that is `broken(error)` it is asked again with the same key:
    the client raised it although it retries, and nobody knows whether the request was carried out. So it is after a body that
    is not whole: Python's own HTTP parser takes a head that breaks off for a whole one, and then there is no body."""

    def operation(line):
        name, key = line.rstrip("\n").split("\t")
        for again in range(RETRIES + 1):
            try:
                status, body = ask(name, key)
                json.loads(body)
                return f"{name}\t{status}\t\t{again}\t{body}\n"
            except Exception as error:
                if isinstance(error, json.JSONDecodeError) or broken(error):
                    last = error
                    continue
                status = getattr(error, "http_status", None) or 0
                return f"{name}\t{status}\t{type(error).__name__}\t{again}\t{error!r}\n"
        return f"{name}\t0\t{type(last).__name__}\t{RETRIES}\t{last!r}\n"

    with ThreadPoolExecutor(4) as pool:
        for line in pool.map(operation, sys.stdin.readlines()):
            sys.stdout.write(line)
