// Requests have no time limit of their own; `giveUp` ends those under way as a limit would.
const requests = [];
AbortSignal.timeout = () => {
    requests.push(new AbortController());
    return requests.at(-1).signal;
};
window.giveUp = () => {
    for (const request of requests) request.abort(new DOMException("given up by the test", "TimeoutError"));
};
