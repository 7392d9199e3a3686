-- booking.release: frees the seats of one hold: given back by its visitor, by the end of its order, or by a refund.
-- The entry stays for a while as the word it ended with, so that a repeated or late call finds an end, not a hold.
-- KEYS: seats holds expiries holders
-- ARGV: nowMs(ms, '' = Redis TIME) holdId visitor('' = any) epoch('' = any) number cause keepMs(ms)
-- Returns: rebuilding | missing | foreign | fenced | ended <state> | ordered | released
-- Cost: O(seats of the section)
local seatsKey, holdsKey, expiriesKey, holdersKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local nowArg, holdId, visitor, epoch, number = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local cause, keepMs = ARGV[6], tonumber(ARGV[7])

if redis.call('HGET', seatsKey, 'ready') ~= '1' then return { 'rebuilding' } end
local entry = redis.call('HGET', holdsKey, holdId)
if not entry then return { 'missing' } end
local state, rest, e, n, owner, section, offsets =
  string.match(entry, '^(%a+)(|(%d+)|(%d+)|([^|]*)|([^|]*)|%d+|[^|]*|([%d,]*).*)$')
if visitor ~= '' and owner ~= visitor then return { 'foreign' } end
if epoch ~= '' and (e ~= epoch or n ~= number) then return { 'fenced' } end
local open = state == 'held' or state == 'ordered'
if (cause == 'refund') ~= (state == 'confirmed') or not (open or state == 'confirmed') then
  return { 'ended', state }
end
if cause == 'visitor' and state == 'ordered' then return { 'ordered' } end

local taken, count = state == 'confirmed' and 's' or 'h', 0
local map = redis.call('HGET', seatsKey, 'm:' .. section)
for offset in string.gmatch(offsets, '%d+') do
  count = count + 1
  if string.sub(map, offset + 1, offset + 1) == taken then
    map = string.sub(map, 1, offset) .. 'f' .. string.sub(map, offset + 2)
  end
end
local ended = { visitor = 'released', order = 'expired', refund = 'refunded' }
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', seatsKey, 'm:' .. section, map)
redis.call('HINCRBY', seatsKey, 'version', 1)
redis.call('HSET', holdsKey, holdId, ended[cause] .. rest)
redis.call('ZADD', expiriesKey, now + keepMs, holdId)
if redis.call('HINCRBY', holdersKey, owner, -count) <= 0 then redis.call('HDEL', holdersKey, owner) end
return { 'released' }
