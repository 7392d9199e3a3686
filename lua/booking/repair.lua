-- booking.repair: corrects what an audit found, if nothing has changed since. The rest is triples: `seat` with
-- section:offset and character, `hold` with hold id and entry ('' = forget it), `holder` with visitor and count.
-- KEYS: seats holds expiries holders
-- ARGV: nowMs(ms, '' = Redis TIME) epoch version leaseMs(ms) ...triples
-- Returns: rebuilding | changed | repaired
-- Cost: O(triples × seats of a section)
local seatsKey, holdsKey, expiriesKey, holdersKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local nowArg, epoch, version, leaseMs = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local f = redis.call('HMGET', seatsKey, 'ready', 'epoch', 'version')
if f[1] ~= '1' then return { 'rebuilding' } end
if f[2] ~= epoch or f[3] ~= version then return { 'changed' } end

local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
for i = 5, #ARGV, 3 do
  local kind, name, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if kind == 'seat' then
    local section, offset = string.match(name, '^(.*):(%d+)$')
    local map = redis.call('HGET', seatsKey, 'm:' .. section)
    map = string.sub(map, 1, offset) .. value .. string.sub(map, offset + 2)
    redis.call('HSET', seatsKey, 'm:' .. section, map)
  elseif kind == 'hold' then
    redis.call('ZREM', expiriesKey, name)
    if value == '' then
      redis.call('HDEL', holdsKey, name)
    else
      redis.call('HSET', holdsKey, name, value)
      if string.sub(value, 1, 9) ~= 'confirmed' then redis.call('ZADD', expiriesKey, now + leaseMs, name) end
    end
  elseif value == '0' then
    redis.call('HDEL', holdersKey, name)
  else
    redis.call('HSET', holdersKey, name, value)
  end
end
redis.call('HINCRBY', seatsKey, 'version', 1)
return { 'repaired' }
