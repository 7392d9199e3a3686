-- booking.audit: everything Redis knows of an event at one instant, for the reconciler to compare with PostgreSQL.
-- KEYS: seats holds holders
-- ARGV: nowMs(ms, '' = Redis TIME)
-- Returns: rebuilding | audited <nowMs> <seats> <holds> <holders>
-- Cost: O(seats + holds)
local seatsKey, holdsKey, holdersKey = KEYS[1], KEYS[2], KEYS[3]
local nowArg = ARGV[1]

if redis.call('HGET', seatsKey, 'ready') ~= '1' then return { 'rebuilding' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local seats, holds = redis.call('HGETALL', seatsKey), redis.call('HGETALL', holdsKey)
return { 'audited', now, seats, holds, redis.call('HGETALL', holdersKey) }
