-- What is sold, to whom, and for how much. A seat is its place in the section's map (row separators counted).
-- Orders that are `paying` or `paid` are live: their seats are theirs alone, and that is the last word on it.

CREATE TABLE booking_events (
  id text PRIMARY KEY,
  name text NOT NULL,
  venue text NOT NULL,
  starts_at timestamptz NOT NULL,
  currency text NOT NULL,
  -- Raised by each rebuild of Redis; an order is only taken for a hold of this epoch.
  epoch bigint NOT NULL DEFAULT 0
);

CREATE TABLE booking_sections (
  event text NOT NULL REFERENCES booking_events (id),
  id text NOT NULL,
  name text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('seated', 'area')),
  rows integer NOT NULL CHECK (rows BETWEEN 1 AND 500),
  per_row integer NOT NULL CHECK (per_row BETWEEN 1 AND 10000),
  price_minor bigint NOT NULL CHECK (price_minor >= 0),
  position integer NOT NULL,
  PRIMARY KEY (event, id)
);

CREATE TABLE orders (
  id text PRIMARY KEY,
  event text NOT NULL REFERENCES booking_events (id),
  section text NOT NULL,
  visitor text NOT NULL,
  hold_id text NOT NULL,
  fence_epoch bigint NOT NULL,
  fence_number bigint NOT NULL,
  -- paying → paid | failed | expired; failed or expired → late (paid too late) → paid | refunding;
  -- paid → refunding → refunded
  state text NOT NULL CHECK (state IN ('paying', 'paid', 'failed', 'expired', 'late', 'refunding', 'refunded')),
  amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
  currency text NOT NULL,
  room text NOT NULL,
  place_id text NOT NULL,
  place_number bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  paid_at timestamptz
);
CREATE UNIQUE INDEX orders_one_live_a_hold ON orders (event, hold_id) WHERE state IN ('paying', 'paid');
CREATE INDEX orders_by_visitor ON orders (visitor, created_at);
CREATE INDEX orders_paying ON orders (expires_at) WHERE state = 'paying';
CREATE INDEX orders_live ON orders (event) WHERE state IN ('paying', 'paid');

CREATE TABLE order_seats (
  order_id text NOT NULL REFERENCES orders (id),
  event text NOT NULL,
  section text NOT NULL,
  seat integer NOT NULL,
  live boolean NOT NULL DEFAULT true,
  PRIMARY KEY (order_id, seat)
);
CREATE UNIQUE INDEX order_seats_sold_once ON order_seats (event, section, seat) WHERE live;

CREATE TABLE payments (
  -- The reference the provider knows it by; chosen by us before it is asked for money.
  id text PRIMARY KEY,
  order_id text NOT NULL UNIQUE REFERENCES orders (id),
  provider text NOT NULL,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'succeeded', 'declined')),
  amount_minor bigint NOT NULL,
  currency text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  checks integer NOT NULL DEFAULT 0,
  next_check_at timestamptz NOT NULL
);
CREATE INDEX payments_pending ON payments (next_check_at) WHERE state = 'pending';

CREATE TABLE refunds (
  id text PRIMARY KEY,
  payment_id text NOT NULL UNIQUE REFERENCES payments (id),
  order_id text NOT NULL REFERENCES orders (id),
  reason text NOT NULL,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done')),
  amount_minor bigint NOT NULL,
  currency text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  attempts integer NOT NULL DEFAULT 0,
  next_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_error text NOT NULL DEFAULT '',
  done_at timestamptz
);
CREATE INDEX refunds_pending ON refunds (next_at) WHERE state = 'pending';

CREATE TABLE idempotency (
  visitor text NOT NULL,
  key text NOT NULL,
  -- Fingerprint of route and body: the same key with another wish is refused.
  request text NOT NULL,
  order_id text NOT NULL,
  -- The answer, once it is known.
  status integer,
  body jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (visitor, key)
);

-- Steps that follow from a committed change, done at least once, in order for each subject. A failed step stays.
CREATE TABLE outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  subject text NOT NULL,
  kind text NOT NULL,
  payload jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  attempts integer NOT NULL DEFAULT 0,
  next_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_error text NOT NULL DEFAULT ''
);
CREATE INDEX outbox_next ON outbox (next_at);
CREATE INDEX outbox_subject ON outbox (subject, id);
