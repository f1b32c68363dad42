-- Two thousand customers with four transactions each, after 0001_wallet.sql. It does nothing when there are customers already.
-- A balance is the sum of its transactions: that stays true under load, and a lost or doubled payment breaks it.
WITH seeded AS (
    INSERT INTO customers (id, name, email, created_at)
    SELECT n, 'Customer ' || n, 'customer' || n || '@example.com', timestamptz '2024-01-01 00:00:00+00' + n * interval '1 minute'
    FROM generate_series(1, 2000) AS n
    WHERE NOT EXISTS (SELECT FROM customers)
    RETURNING id
)
SELECT setval(pg_get_serial_sequence('customers', 'id'), max(id)) FROM seeded HAVING max(id) IS NOT NULL;

INSERT INTO transactions (customer_id, amount_cents, reference, created_at)
SELECT 1 + (n - 1) % 2000, 100 + (n * 37) % 9900, 'seed-' || n, timestamptz '2024-02-01 00:00:00+00' + n * interval '1 minute'
FROM generate_series(1, 8000) AS n
WHERE NOT EXISTS (SELECT FROM transactions);

UPDATE customers
SET balance_cents = paid.cents
FROM (SELECT customer_id, sum(amount_cents) AS cents FROM transactions GROUP BY customer_id) AS paid
WHERE customers.id = paid.customer_id AND customers.balance_cents <> paid.cents;

ANALYZE customers, transactions;
