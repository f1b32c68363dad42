// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const crypto = require('crypto');
const { Refusal } = require('./requests');

const TOLERANCE_SECONDS = 300;

/**
 * Refuse a body that Stripe did not sign, or signed too long ago.
 *
 * The header reads `t=1700000000,v1=<hex>,v1=<hex>`: while a secret is being rolled there is one v1 for each secret.
 */
function verifySignature(header, body, secret, now = Date.now() / 1000) {
  if (!secret) throw new Refusal(400, 'no webhook secret is configured');
  if (!header) throw new Refusal(400, 'the Stripe-Signature header is missing');

  const pairs = header.split(',').map((part) => part.trim().split('=', 2));
  const time = pairs.find(([name]) => name === 't')?.[1] ?? '';
  const signatures = pairs.filter(([name, value]) => name === 'v1' && /^[0-9a-f]{64}$/.test(value ?? ''));
  if (!/^\d{1,12}$/.test(time) || signatures.length === 0) throw new Refusal(400, 'the Stripe-Signature header cannot be read');

  const expected = crypto.createHmac('sha256', secret).update(`${time}.`).update(body).digest();
  if (!signatures.some(([, value]) => crypto.timingSafeEqual(Buffer.from(value, 'hex'), expected))) {
    throw new Refusal(400, 'no signature matches the body');
  }
  if (Math.abs(now - Number(time)) > TOLERANCE_SECONDS) throw new Refusal(400, 'the signature is too old');
}

module.exports = { verifySignature };
