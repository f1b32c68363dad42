// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const fs = require('fs');
const http = require('http');
const path = require('path');
const { Pool } = require('pg');
const pages = require('./pages');
const wallet = require('./wallet');
const { Refusal, parseJson, readBody } = require('./requests');
const { stopGracefully } = require('./shutdown');
const { verifySignature } = require('./webhook');

const { DATABASE_URL, HOST = '127.0.0.1', PORT = '3000', SLUICE_RELEASE, SLUICE_SLOT = 'none', STRIPE_WEBHOOK_SECRET } = process.env;
const VERSION = `v${require('./package.json').version}`;
const HEALTH_TIMEOUT_MS = 2000;
// A page that comes late is better than none.
const DATABASE_TIMEOUT_MS = 10_000;
const SLOWEST_MS = 10_000;
const EXIT_CONFIGURATION = 78;

if (!DATABASE_URL) {
  console.error('DATABASE_URL is not set: give it the URL of the PostgreSQL database');
  process.exit(EXIT_CONFIGURATION);
}

const css = fs.readFileSync(path.join(__dirname, 'public', 'wallet.css'));
const pool = new Pool({
  connectionString: DATABASE_URL,
  application_name: `wallet ${VERSION} ${SLUICE_SLOT}`,
  max: 5,
  connectionTimeoutMillis: DATABASE_TIMEOUT_MS,
  query_timeout: DATABASE_TIMEOUT_MS,
});
pool.on('error', (error) => console.error(`an idle database connection broke: ${error.message}`));

async function health() {
  const database = await databaseCheck();
  return json(database.status === 'ok' ? 200 : 503, {
    status: database.status,
    version: VERSION,
    slot: SLUICE_SLOT,
    ...(SLUICE_RELEASE && { release: SLUICE_RELEASE }),
    checks: { database },
  });
}

async function databaseCheck() {
  const started = Date.now();
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${HEALTH_TIMEOUT_MS} ms`)), HEALTH_TIMEOUT_MS);
  });
  try {
    await Promise.race([wallet.probe(pool), late]);
    return { status: 'ok', ms: Date.now() - started };
  } catch (error) {
    return { status: 'failing', ms: Date.now() - started, error: error.message || error.code };
  } finally {
    clearTimeout(timer);
  }
}

async function slow(query) {
  const ms = Number(query.get('ms') ?? 1000);
  if (!(ms >= 0)) throw new Refusal(400, 'ms must be a number of milliseconds');
  const wait = Math.min(ms, SLOWEST_MS);
  await new Promise((resolve) => setTimeout(resolve, wait));
  return json(200, { waited_ms: wait });
}

async function webhook(request) {
  const body = await readBody(request);
  verifySignature(request.headers['stripe-signature'], body, STRIPE_WEBHOOK_SECRET);
  parseJson(body);
  return json(200, { received: true });
}

function json(status, value) {
  return { status, type: 'application/json', body: JSON.stringify(value) };
}

function html(body) {
  return { status: 200, type: 'text/html; charset=utf-8', body };
}

async function route(request) {
  const [pathname, query] = request.url.split('?', 2);
  switch (`${request.method === 'HEAD' ? 'GET' : request.method} ${pathname}`) {
    case 'GET /':
      return html(pages.homePage(await wallet.firstCustomers(pool), VERSION));
    case 'GET /wallet.css':
      return { status: 200, type: 'text/css', body: css };
    case 'GET /api/health':
      return health();
    case 'GET /api/slow':
      return slow(new URLSearchParams(query));
    case 'POST /api/wallet/recharge':
      return json(201, await wallet.recharge(pool, parseJson(await readBody(request))));
    case 'POST /api/business/wallet/webhook':
      return webhook(request);
  }
  const customer = /^\/wallet\/([1-9]\d{0,8})$/.exec(pathname);
  if (customer && ['GET', 'HEAD'].includes(request.method)) {
    return html(pages.walletPage(await wallet.customerWallet(pool, customer[1]), VERSION));
  }
  throw new Refusal(404, 'there is no such page');
}

async function answer(request) {
  try {
    return await route(request);
  } catch (error) {
    if (error instanceof Refusal) return json(error.status, { error: error.message });
    console.error(`${request.method} ${request.url.split('?')[0]} failed: ${error.message || error.code}`);
    return json(500, { error: 'something went wrong on our side' });
  }
}

const server = http.createServer(async (request, response) => {
  const { status, type, body } = await answer(request);
  response.writeHead(status, {
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(body),
    'X-App-Version': VERSION,
    'X-App-Slot': SLUICE_SLOT,
    ...(!server.listening && { Connection: 'close' }),
  });
  response.end(body);
});

// Longer than any proxy keeps a pooled connection: the proxy is the one to close it, so it never writes into a closed one.
server.keepAliveTimeout = 65_000;
server.headersTimeout = 66_000;

server.on('error', (error) => {
  console.error(`cannot listen on ${HOST}:${PORT}: ${error.message}`);
  process.exit(1);
});
stopGracefully(server, pool);
server.listen(Number(PORT), HOST, () => {
  console.info(`wallet ${VERSION} (${SLUICE_SLOT}) listens on ${HOST}:${PORT}`);
  if (process.send) process.send('ready');
});
