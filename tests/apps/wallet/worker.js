// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

/** The wallet's worker: takes the jobs of the slot that has them. It says that it lives by touching its heartbeat, and who it is in what it writes there. */
const fs = require('fs');

const heartbeat = process.env.SLUICE_HEARTBEAT;
const jobs = setInterval(() => fs.writeFileSync(heartbeat, `${process.env.SLUICE_SLOT} ${process.env.SLUICE_ROLE} ${process.pid}\n`), 200);

function stop() {
  clearInterval(jobs);
  process.exit(0);
}

process.on('SIGINT', stop);
process.on('SIGTERM', stop);
if (process.send) process.send('ready');
