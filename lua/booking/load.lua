-- booking.load: writes the whole of an event as PostgreSQL knows it, after Redis lost it or for the first time. The
-- epoch comes from PostgreSQL and grows with each rebuild, so of two that run at once the later one stays. The
-- entries are those of orders: sections, then pairs of hold id and entry, as many as `sections` and the rest say.
-- KEYS: seats holds expiries holders
-- ARGV: nowMs(ms, '' = Redis TIME) epoch number leaseMs(ms) sections ...rest
-- Returns: stale | loaded
-- Cost: O(seats + orders)
local seatsKey, holdsKey, expiriesKey, holdersKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local nowArg, epoch, number, leaseMs, sections = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local f = redis.call('HMGET', seatsKey, 'ready', 'epoch')
if f[1] == '1' and tonumber(f[2]) >= tonumber(epoch) then return { 'stale' } end

local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('DEL', seatsKey, holdsKey, expiriesKey, holdersKey)
for i = 6, 5 + 2 * sections, 2 do redis.call('HSET', seatsKey, 'm:' .. ARGV[i], ARGV[i + 1]) end
for i = 6 + 2 * sections, #ARGV, 2 do
  local state, owner, offsets = string.match(ARGV[i + 1], '^(%a+)|%d+|%d+|([^|]*)|[^|]*|%d+|[^|]*|([%d,]*)')
  local _, commas = string.gsub(offsets, ',', '')
  redis.call('HSET', holdsKey, ARGV[i], ARGV[i + 1])
  redis.call('HINCRBY', holdersKey, owner, commas + 1)
  if state ~= 'confirmed' then redis.call('ZADD', expiriesKey, now + leaseMs, ARGV[i]) end
end
redis.call('HSET', seatsKey, 'epoch', epoch, 'number', number, 'version', 1, 'ready', '1')
return { 'loaded' }
