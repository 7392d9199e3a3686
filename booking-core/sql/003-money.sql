-- What was shown is what is charged: each change of what a sale asks for is another version of it, and an order is
-- taken only for a hold of the version it was shown. By triggers, so that a change by hand counts, too.
ALTER TABLE booking_events ADD COLUMN version bigint NOT NULL DEFAULT 1;

CREATE FUNCTION booking_event_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.currency IS DISTINCT FROM OLD.currency THEN NEW.version := OLD.version + 1; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER booking_event_changed BEFORE UPDATE ON booking_events
  FOR EACH ROW EXECUTE FUNCTION booking_event_changed();

CREATE FUNCTION booking_section_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE booking_events SET version = version + 1 WHERE id IN (OLD.event, NEW.event);
  RETURN NULL;
END $$;
CREATE TRIGGER booking_section_changed AFTER UPDATE ON booking_sections
  FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION booking_section_changed();

ALTER TABLE orders ADD COLUMN sale_version bigint NOT NULL DEFAULT 1;

-- What the provider says it took, where that is not what was asked for.
ALTER TABLE payments ADD COLUMN charged_minor bigint;
ALTER TABLE payments ADD COLUMN charged_currency text;
