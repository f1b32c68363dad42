// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

function escape(text) {
  return String(text).replace(/[&<>"']/g, (character) => ESCAPES[character]);
}

function euros(cents) {
  return `${(Number(cents) / 100).toFixed(2)} €`;
}

function page(title, content, version) {
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>${escape(title)}</title><link rel="stylesheet" href="/wallet.css"></head>
<body><h1>${escape(title)}</h1>
${content}
<footer>Wallet ${escape(version)}</footer></body>
</html>
`;
}

function homePage(customers, version) {
  const rows = customers.map((customer) =>
    `<tr><td><a href="/wallet/${customer.id}">${escape(customer.name)}</a></td><td>${euros(customer.balance_cents)}</td></tr>`);
  return page('Wallets', `<table><tr><th>Customer</th><th>Balance</th></tr>\n${rows.join('\n')}\n</table>`, version);
}

function walletPage(wallet, version) {
  const rows = wallet.transactions.map((transaction) =>
    `<tr><td>${escape(transaction.reference)}</td><td>${euros(transaction.amount_cents)}</td></tr>`);
  const content = `<p>Balance: <strong id="balance">${euros(wallet.balance_cents)}</strong></p>
<table><tr><th>Reference</th><th>Amount</th></tr>\n${rows.join('\n')}\n</table>`;
  return page(wallet.name, content, version);
}

module.exports = { homePage, walletPage };
