// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const net = require('net');

const LINGER_MS = 500;
const DEADLINE_MS = 4500;

/** On SIGINT or SIGTERM: take no new connections, answer what was asked, and leave with 0 within five seconds. */
function stopGracefully(server, pool) {
  let stopping = false;

  function stop() {
    if (stopping) return;
    stopping = true;
    // Not http's own close(): it drops idle connections at once, and with them a request that is on its way over one.
    // Every answer says `Connection: close` from here on, so busy clients let go by themselves before the linger ends.
    net.Server.prototype.close.call(server, () => pool.end().finally(() => process.exit(0)));
    setTimeout(() => setInterval(() => server.closeIdleConnections(), 50), LINGER_MS);
    setTimeout(() => {
      console.error(`requests were still running ${DEADLINE_MS} ms after the signal and are cut off`);
      process.exit(0);
    }, DEADLINE_MS);
  }

  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
}

module.exports = { stopGracefully };
