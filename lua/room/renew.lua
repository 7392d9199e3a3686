-- room.renew: moves the expiry of a live session forward, never beyond its absolute limit. An expired session is
-- not renewed, whether or not it has been reaped. Whose cookie it is does not matter here: the serial stays.
-- KEYS: room active places
-- ARGV: nowMs(ms, '' = Redis TIME) placeId number
-- Returns: unknown | ended | fixed <expiresAtMs> <startedAtMs> | renewed <expiresAtMs> <startedAtMs>
-- Cost: O(log n)
local roomKey, activeKey, placesKey = KEYS[1], KEYS[2], KEYS[3]
local nowArg, placeId, number = ARGV[1], ARGV[2], tonumber(ARGV[3])

local f = redis.call('HMGET', roomKey, 'sessionSeconds', 'absoluteSessionSeconds', 'sessionRenewal')
if not f[1] then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local expiresAt = tonumber(redis.call('ZSCORE', activeKey, placeId))
local held, started = string.match(redis.call('HGET', placesKey, placeId) or '', '^(%d+) %-?%d+ %d (%d+) %d+')
if not expiresAt or expiresAt < now or tonumber(held) ~= number then return { 'ended' } end
if f[3] ~= '1' then return { 'fixed', expiresAt, tonumber(started) } end

local latest = tonumber(started) + tonumber(f[2]) * 1000
expiresAt = math.max(expiresAt, math.min(now + tonumber(f[1]) * 1000, latest))
redis.call('ZADD', activeKey, expiresAt, placeId)
return { 'renewed', expiresAt, tonumber(started) }
