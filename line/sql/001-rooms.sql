-- The master copy of every room. Redis holds a working copy of `settings`; `version` says which one is newer.
-- `memory` is what the dispatchers remember of the line (head, nextNumber, epoch), enough to bring a room back
-- after Redis lost its data; null means that the room was never configured in Redis.
CREATE TABLE rooms (
  id text PRIMARY KEY,
  settings jsonb NOT NULL,
  version integer NOT NULL DEFAULT 1 CHECK (version > 0),
  sale integer NOT NULL DEFAULT 1 CHECK (sale > 0),
  memory jsonb,
  created_at timestamptz NOT NULL DEFAULT now()
);
