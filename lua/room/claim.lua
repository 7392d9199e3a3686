-- room.claim: turns a promotion into the one session of its visit. Claiming again returns the same session. A
-- claim after the deadline still counts while nobody has reaped it: the slot was kept all the while.
-- KEYS: room promoted active places finished
-- ARGV: nowMs(ms, '' = Redis TIME) placeId number
-- Returns: unknown | finished | active <number> <expiresAtMs> <startedAtMs> <epoch> | notPromoted | claimed <number> <expiresAtMs> <startedAtMs> <epoch>
-- Cost: O(log n)
local roomKey, promotedKey, activeKey, placesKey, finishedKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local nowArg, placeId, number = ARGV[1], ARGV[2], tonumber(ARGV[3])

local f = redis.call('HMGET', roomKey, 'epoch', 'sessionSeconds', 'absoluteSessionSeconds')
if not f[1] then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
if tonumber(redis.call('HGET', finishedKey, placeId) or 0) >= number then return { 'finished' } end
local entry = redis.call('HGET', placesKey, placeId)
local held, score, _, started = string.match(entry or '', '^(%d+) (%-?%d+) (%d) (%d+)$')
local expiresAt = redis.call('ZSCORE', activeKey, placeId)
if expiresAt and tonumber(held) == number then
  return { 'active', number, tonumber(expiresAt), tonumber(started), tonumber(f[1]) }
end
if tonumber(held) ~= number or not redis.call('ZSCORE', promotedKey, placeId) then return { 'notPromoted' } end

expiresAt = now + math.min(tonumber(f[2]), tonumber(f[3])) * 1000
redis.call('ZREM', promotedKey, placeId)
redis.call('ZADD', activeKey, expiresAt, placeId)
redis.call('HSET', placesKey, placeId, string.format('%d %d 0 %d', number, tonumber(score), now))
redis.call('HINCRBY', roomKey, 'claimedTotal', 1)
return { 'claimed', number, expiresAt, now, tonumber(f[1]) }
