-- booking.reopen: an order ended without being paid while its hold has time left: the hold is open again, until the
-- same instant as before, and the visitor may try another card.
-- KEYS: seats holds expiries
-- ARGV: holdId epoch number
-- Returns: rebuilding | missing | fenced | ended <state> | held
-- Cost: O(log n)
local seatsKey, holdsKey, expiriesKey = KEYS[1], KEYS[2], KEYS[3]
local holdId, epoch, number = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', seatsKey, 'ready') ~= '1' then return { 'rebuilding' } end
local entry = redis.call('HGET', holdsKey, holdId)
if not entry then return { 'missing' } end
local state, rest, e, n, expiresAt = string.match(entry, '^(%a+)(|(%d+)|(%d+)|[^|]*|[^|]*|(%d+)|.*)$')
if e ~= epoch or n ~= number then return { 'fenced' } end
if state ~= 'held' and state ~= 'ordered' then return { 'ended', state } end

redis.call('HSET', holdsKey, holdId, 'held' .. rest)
redis.call('HINCRBY', seatsKey, 'version', 1)
redis.call('ZADD', expiriesKey, expiresAt, holdId)
return { 'held' }
