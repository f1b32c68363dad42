// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const BODY_LIMIT = 256 * 1024;

/** A request that is answered with this status and message, and is no fault of ours. */
class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The whole body as bytes. What is over the limit is read and dropped, so that the answer still reaches the client. */
function readBody(request) {
  return new Promise((resolve, reject) => {
    const chunks = [];
    let size = 0;
    request.on('data', (chunk) => {
      size += chunk.length;
      if (size <= BODY_LIMIT) chunks.push(chunk);
    });
    request.on('end', () => {
      if (size > BODY_LIMIT) reject(new Refusal(413, `the body has more than ${BODY_LIMIT} bytes`));
      else resolve(Buffer.concat(chunks));
    });
    request.on('error', () => reject(new Refusal(400, 'the body was cut off')));
  });
}

function parseJson(bytes) {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    throw new Refusal(400, 'the body is not JSON');
  }
}

module.exports = { Refusal, parseJson, readBody };
