// What each client of node's does: reads operations, runs four at a time, and writes what came of them.
//
// A line of the input is the name of an operation and its key, with a tab between them. A line of the output is the name,
// the status, the class of the error that the client raised (empty if none), how often the caller had to ask again, and the
// body.
'use strict';

const [base, timeoutSeconds, retries] = process.argv.slice(2);

exports.base = new URL(base);
exports.timeoutMs = Number(timeoutSeconds) * 1000;
exports.retries = Number(retries);

// `ask(name, key)` gives a status and a body. After an error that is `broken` it is asked again with the same key: the client
// raised it although it retries, and nobody knows whether the request was carried out.
exports.run = async (ask, broken) => {
    const operation = async (line) => {
        const [name, key] = line.split('\t');
        for (let again = 0; ; again++) {
            try {
                const [status, body] = await ask(name, key);
                return `${name}\t${status}\t\t${again}\t${body}\n`;
            } catch (error) {
                if (!broken(error) || again === exports.retries) {
                    const text = JSON.stringify(error.message);
                    return `${name}\t${error.statusCode ?? 0}\t${error.constructor.name}\t${again}\t${text}\n`;
                }
            }
        }
    };
    const lines = require('node:fs').readFileSync(0, 'utf8').split('\n').filter(Boolean);
    const worker = async () => {
        while (lines.length > 0) {
            process.stdout.write(await operation(lines.shift()));
        }
    };
    await Promise.all([worker(), worker(), worker(), worker()]);
    // When all is written. Timers of connections that are kept open would hold the process up.
    process.stdout.write('', () => process.exit());
};
