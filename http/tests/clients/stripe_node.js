// Stripe's client for node, as an application would set it up.
'use strict';

const Stripe = require('stripe');
const { base, retries, run, timeoutMs } = require('./given.js');

const stripe = new Stripe('sk_test_of_nobody', {
    protocol: 'http',
    host: base.hostname,
    port: base.port,
    timeout: timeoutMs,
    maxNetworkRetries: retries,
});

const ask = async (name, key) => {
    const what = { amount: 50, currency: 'eur', source: 'tok_visa', description: name };
    // Without a key of ours the client makes one for each call, and keeps it for the retries of that call only.
    const charge = await stripe.charges.create(what, key ? { idempotencyKey: key } : {});
    return [charge.lastResponse.statusCode, JSON.stringify(charge)];
};

// A reply that breaks off in its body is raised at once.
run(ask, (error) => error instanceof Stripe.errors.StripeConnectionError);
