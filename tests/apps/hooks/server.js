// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// A webhook as apps get it right, and as they get it wrong: BEHAVIOUR says which one this is.

const http = require('http');
const { readBody } = require('../wallet/requests');
const { verifySignature } = require('../wallet/webhook');

const { BEHAVIOUR = 'good', PORT, SECRET } = process.env;

const behaviours = {
  good: (header, body) => verifySignature(header, body, SECRET),
  // What express.json() before the route comes to: the bytes that were signed are gone.
  parsed: (header, body) => verifySignature(header, JSON.stringify(JSON.parse(body)), SECRET),
  indented: (header, body) => verifySignature(header, JSON.stringify(JSON.parse(body), null, 2), SECRET),
  open: () => {},
  // Any time is good enough.
  timeless: (header, body) => verifySignature(header, body, SECRET, Number(/t=(\d+)/.exec(header)?.[1])),
};

const server = http.createServer(async (request, response) => {
  const answer = (status, value) => {
    response.writeHead(status, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify(value));
  };
  const body = await readBody(request);
  if (request.url === '/api/health') return answer(200, { version: 'v1.0.0' });
  if (request.url !== '/hook') return answer(404, { error: 'there is no such page' });
  if (request.method !== 'POST') return answer(405, { error: 'this takes POST' });
  try {
    behaviours[BEHAVIOUR](request.headers['stripe-signature'], body);
    return answer(200, { received: true });
  } catch (error) {
    return answer(error.status ?? 400, { error: error.message });
  }
});
server.listen(Number(PORT), '127.0.0.1', () => console.log('listens'));
