// Requests have no time limit of their own; `giveUp` ends those under way as a limit would. `limits` are the milliseconds
// that the page asked for, in the order of its requests.
const requests = [];
window.limits = [];
AbortSignal.timeout = (limit) => {
    window.limits.push(limit);
    requests.push(new AbortController());
    return requests.at(-1).signal;
};
window.giveUp = () => {
    for (const request of requests) request.abort(new DOMException("given up by the test", "TimeoutError"));
};
