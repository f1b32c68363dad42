// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { Refusal } = require('./requests');

const LARGEST_ID = 2 ** 31 - 1;
const LARGEST_AMOUNT = 1_000_000;

/** Asks for a column that every page needs: a database that answers but does not fit this version is not healthy. */
async function probe(pool) {
  await pool.query('SELECT balance_cents FROM customers LIMIT 1');
}

async function firstCustomers(pool) {
  const { rows } = await pool.query('SELECT id, name, balance_cents FROM customers ORDER BY id LIMIT 10');
  return rows;
}

async function customerWallet(pool, id) {
  const customer = await pool.query('SELECT id, name, balance_cents FROM customers WHERE id = $1', [id]);
  if (customer.rowCount === 0) throw new Refusal(404, 'there is no such customer');
  const transactions = await pool.query(
    'SELECT amount_cents, reference, created_at FROM transactions WHERE customer_id = $1 ORDER BY id DESC LIMIT 10',
    [id],
  );
  return { ...customer.rows[0], transactions: transactions.rows };
}

/** One statement, so one transaction: the payment is written and the balance raised, or neither. */
async function recharge(pool, payment) {
  const { customer, amount_cents: amount, reference } = checkedPayment(payment);
  const { rows } = await pool.query(
    `WITH paid AS (
       UPDATE customers SET balance_cents = balance_cents + $2 WHERE id = $1
       RETURNING id, balance_cents
     ), written AS (
       INSERT INTO transactions (customer_id, amount_cents, reference) SELECT id, $2, $3 FROM paid
       RETURNING id
     )
     SELECT written.id AS transaction, paid.id AS customer, balance_cents FROM paid, written`,
    [customer, amount, reference],
  );
  if (rows.length === 0) throw new Refusal(404, 'there is no such customer');
  return { transaction: Number(rows[0].transaction), customer, balance_cents: Number(rows[0].balance_cents) };
}

function checkedPayment(payment) {
  const { customer, amount_cents: amount, reference } = payment ?? {};
  if (!isIntegerUpTo(customer, LARGEST_ID)) throw new Refusal(400, `customer must be a whole number from 1 to ${LARGEST_ID}`);
  if (!isIntegerUpTo(amount, LARGEST_AMOUNT)) throw new Refusal(400, `amount_cents must be a whole number from 1 to ${LARGEST_AMOUNT}`);
  if (!/^[\w.:-]{1,100}$/.test(typeof reference === 'string' ? reference : '')) {
    throw new Refusal(400, 'reference must be 1 to 100 letters, digits, or . : _ -');
  }
  return payment;
}

function isIntegerUpTo(value, limit) {
  return Number.isInteger(value) && value >= 1 && value <= limit;
}

module.exports = { customerWallet, firstCustomers, probe, recharge };
