-- booking.load: writes the whole of an event as PostgreSQL knows it, after Redis lost it or for the first time, in
-- parts, so that no call is too large for anybody. `begin` empties the event and writes its maps, `part` adds some of
-- its orders, `end` puts it on sale. The epoch comes from PostgreSQL and grows with each rebuild: a later one takes
-- over, and an earlier one hears that it is stale. While one is under way, and not silent for long, no other begins.
-- KEYS: seats holds expiries holders
-- ARGV: nowMs(ms, '' = Redis TIME) phase(look, begin, part, end) epoch patienceMs(ms) leaseMs(ms) ...rest(begin: section and map; part: hold id and entry)
-- Returns: stale | busy | free | begun | added | loaded
-- Cost: O(seats) to begin, O(orders) a part
local seatsKey, holdsKey, expiriesKey, holdersKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local nowArg, phase, epoch, patienceMs, leaseMs = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local f = redis.call('HMGET', seatsKey, 'ready', 'epoch', 'loadingAt')
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local isReady, current, loadingAt = f[1] == '1', tonumber(f[2] or -1), tonumber(f[3] or 0)
if phase == 'look' then
  if isReady then return { 'stale' } end
  if math.abs(now - loadingAt) < patienceMs then return { 'busy' } end
  return { 'free' }
end
if phase == 'begin' then
  if current >= epoch then return { 'stale' } end
  redis.call('DEL', seatsKey, holdsKey, expiriesKey, holdersKey)
  for i = 6, #ARGV, 2 do redis.call('HSET', seatsKey, 'm:' .. ARGV[i], ARGV[i + 1]) end
  redis.call('HSET', seatsKey, 'epoch', epoch, 'number', 0, 'version', 1, 'ready', '0', 'loadingAt', now)
  return { 'begun' }
end
if isReady or current ~= epoch then return { 'stale' } end
if phase == 'end' then
  redis.call('HDEL', seatsKey, 'loadingAt')
  redis.call('HSET', seatsKey, 'ready', '1')
  return { 'loaded' }
end
for i = 6, #ARGV, 2 do
  local state, owner, offsets = string.match(ARGV[i + 1], '^(%a+)|%d+|%d+|([^|]*)|[^|]*|%d+|[^|]*|([%d,]*)')
  local _, commas = string.gsub(offsets, ',', '')
  -- A part may come twice, when its reply was lost.
  if redis.call('HSETNX', holdsKey, ARGV[i], ARGV[i + 1]) == 1 then redis.call('HINCRBY', holdersKey, owner, commas + 1) end
  if state ~= 'confirmed' then redis.call('ZADD', expiriesKey, now + leaseMs, ARGV[i]) end
end
redis.call('HSET', seatsKey, 'loadingAt', now)
return { 'added' }
