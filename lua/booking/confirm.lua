-- booking.confirm: an order was paid: its seats are sold. Sold is final for everything but a refund of that hold.
-- KEYS: seats holds expiries
-- ARGV: holdId epoch number
-- Returns: rebuilding | missing | fenced | ended <state> | confirmed
-- Cost: O(seats of the section)
local seatsKey, holdsKey, expiriesKey = KEYS[1], KEYS[2], KEYS[3]
local holdId, epoch, number = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', seatsKey, 'ready') ~= '1' then return { 'rebuilding' } end
local entry = redis.call('HGET', holdsKey, holdId)
if not entry then return { 'missing' } end
local state, rest, e, n, section, offsets = string.match(entry, '^(%a+)(|(%d+)|(%d+)|[^|]*|([^|]*)|%d+|[^|]*|([%d,]*).*)$')
if e ~= epoch or n ~= number then return { 'fenced' } end
if state == 'confirmed' then return { 'confirmed' } end
if state ~= 'held' and state ~= 'ordered' then return { 'ended', state } end

local map = redis.call('HGET', seatsKey, 'm:' .. section)
for offset in string.gmatch(offsets, '%d+') do
  map = string.sub(map, 1, offset) .. 's' .. string.sub(map, offset + 2)
end
redis.call('HSET', seatsKey, 'm:' .. section, map)
redis.call('HINCRBY', seatsKey, 'version', 1)
redis.call('HSET', holdsKey, holdId, 'confirmed' .. rest)
redis.call('ZREM', expiriesKey, holdId)
return { 'confirmed' }
