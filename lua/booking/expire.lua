-- booking.expire: ends the holds whose time has run out and that have no order, and forgets ended ones kept long
-- enough. Holds with an order are only named: PostgreSQL decides about those, and their lease is renewed meanwhile.
-- Also forgets who has held nothing for a while.
-- KEYS: seats holds expiries holders pace
-- ARGV: nowMs(ms, '' = Redis TIME) expireMax keepMs(ms) leaseMs(ms)
-- Returns: rebuilding | expired <count> <more> ...<holdId with an order>
-- Cost: O(expireMax × seats of a section)
local seatsKey, holdsKey, expiriesKey, holdersKey, paceKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local nowArg, expireMax, keepMs, leaseMs = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

if redis.call('HGET', seatsKey, 'ready') ~= '1' then return { 'rebuilding' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('ZREMRANGEBYSCORE', paceKey, '-inf', now)
local due = redis.call('ZRANGEBYSCORE', expiriesKey, '-inf', now, 'LIMIT', 0, expireMax)
local reply = { 'expired', 0, #due == expireMax and 1 or 0 }

for _, holdId in ipairs(due) do
  local entry = redis.call('HGET', holdsKey, holdId) or ''
  local state, rest, owner, section, offsets =
    string.match(entry, '^(%a+)(|%d+|%d+|([^|]*)|([^|]*)|%d+|[^|]*|([%d,]*).*)$')
  if state == 'ordered' then
    redis.call('ZADD', expiriesKey, now + leaseMs, holdId)
    reply[#reply + 1] = holdId
  elseif state == 'held' then
    local map, count = redis.call('HGET', seatsKey, 'm:' .. section), 0
    for offset in string.gmatch(offsets, '%d+') do
      count = count + 1
      if string.sub(map, offset + 1, offset + 1) == 'h' then
        map = string.sub(map, 1, offset) .. 'f' .. string.sub(map, offset + 2)
      end
    end
    redis.call('HSET', seatsKey, 'm:' .. section, map)
    redis.call('HINCRBY', seatsKey, 'version', 1)
    redis.call('HSET', holdsKey, holdId, 'expired' .. rest)
    redis.call('ZADD', expiriesKey, now + keepMs, holdId)
    if redis.call('HINCRBY', holdersKey, owner, -count) <= 0 then redis.call('HDEL', holdersKey, owner) end
    reply[2] = reply[2] + 1
  else
    redis.call('HDEL', holdsKey, holdId)
    redis.call('ZREM', expiriesKey, holdId)
  end
end
return reply
