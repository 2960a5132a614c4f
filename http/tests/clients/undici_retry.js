// Node's undici, with its interceptor for retries.
'use strict';

const { Agent, interceptors, request } = require('undici');
const { base, retries, run, timeoutMs } = require('./given.js');

const dispatcher = new Agent({ headersTimeout: timeoutMs, bodyTimeout: timeoutMs }).compose(
    interceptors.retry({
        maxRetries: retries,
        minTimeout: 100,
        maxTimeout: 5000,
        // POST is not among them by default, nor are its own time limits.
        methods: ['POST'],
        statusCodes: [409, 425, 429, 500, 502, 503, 504],
        errorCodes: [
            'ECONNRESET', 'ECONNREFUSED', 'EPIPE', 'UND_ERR_SOCKET',
            'UND_ERR_HEADERS_TIMEOUT', 'UND_ERR_BODY_TIMEOUT',
        ],
    }),
);

const ask = async (name, key) => {
    const response = await request(new URL('/v1/charges', base), {
        dispatcher,
        method: 'POST',
        headers: { 'content-type': 'application/x-www-form-urlencoded', 'idempotency-key': key },
        body: new URLSearchParams({ amount: '50', description: name }).toString(),
    });
    return [response.statusCode, await response.body.text()];
};

// When a reply breaks off in its body, the interceptor asks for the rest of it by `Range`, which is for downloads, and
// raises what it gets: then the status is one of success.
run(ask, (error) => !(error.statusCode >= 400));
