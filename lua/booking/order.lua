-- booking.order: marks a hold as having an order on its way, so that only the order's own end may end it. Its place
-- in the expiries becomes a lease: when it runs out, the reconciler asks PostgreSQL whether the order exists.
-- KEYS: seats holds expiries
-- ARGV: nowMs(ms, '' = Redis TIME) holdId visitor leaseMs(ms)
-- Returns: rebuilding | missing | foreign | ended <state> | late | ordered <entry>
-- Cost: O(log n)
local seatsKey, holdsKey, expiriesKey = KEYS[1], KEYS[2], KEYS[3]
local nowArg, holdId, visitor, leaseMs = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

if redis.call('HGET', seatsKey, 'ready') ~= '1' then return { 'rebuilding' } end
local entry = redis.call('HGET', holdsKey, holdId)
if not entry then return { 'missing' } end
local state, rest, owner, expiresAt = string.match(entry, '^(%a+)(|%d+|%d+|([^|]*)|[^|]*|(%d+)|.*)$')
if owner ~= visitor then return { 'foreign' } end
if state ~= 'held' and state ~= 'ordered' then return { 'ended', state } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
if state == 'held' and tonumber(expiresAt) <= now then return { 'late' } end

redis.call('HSET', holdsKey, holdId, 'ordered' .. rest)
redis.call('HINCRBY', seatsKey, 'version', 1)
redis.call('ZADD', expiriesKey, now + leaseMs, holdId)
return { 'ordered', 'ordered' .. rest }
