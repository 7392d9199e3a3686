-- room.reap: ends what has run out. A promotion past its deadline is a miss and gives its token back: the first
-- time the place is parked and flagged, the second time it is finished. A session past its expiry is finished.
-- Also forgets old presence and trims the stream. A place whose entry nobody can read keeps its slot, is named, and is
-- looked at again in ten minutes, so that it keeps none of the others waiting.
-- KEYS: room parked promoted active places finished here entries
-- ARGV: nowMs(ms, '' = Redis TIME) reapMax(places) entriesMax(records)
-- Returns: unknown | reaped <missed> <finished> <expired> <more> <unreadable placeIds>
-- Cost: O(r log n) for r <= 3 * reapMax
local roomKey, parkedKey, promotedKey, activeKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local placesKey, finishedKey, hereKey, entriesKey = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local nowArg, reapMax, entriesMax = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local f = redis.call('HMGET', roomKey, 'tokens', 'effectiveBurst', 'graceSeconds', 'head')
if not f[1] then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local function due(key, before) return redis.call('ZRANGE', key, '-inf', '(' .. string.format('%d', before), 'BYSCORE', 'LIMIT', 0, reapMax) end
local late, expired = due(promotedKey, now), due(activeKey, now)
local stale = due(hereKey, now - 10000 * tonumber(f[3]))

local missed, finished, ended, unreadable, ahead = {}, {}, {}, {}, 0
for _, placeId in ipairs(late) do
  local number, score, before = string.match(redis.call('HGET', placesKey, placeId) or '', '^(%d+) (%-?%d+) (%d)')
  if number then redis.call('ZREM', promotedKey, placeId) end
  if not number then
    unreadable[#unreadable + 1] = placeId
    redis.call('ZADD', promotedKey, now + 600000, placeId)
  elseif before == '0' then
    redis.call('ZADD', parkedKey, score, placeId)
    redis.call('HSET', placesKey, placeId, number .. ' ' .. score .. ' 1 0')
    missed[#missed + 1] = placeId .. ' ' .. number
    if tonumber(score) <= tonumber(f[4]) then ahead = ahead + 1 end
  else
    redis.call('HDEL', placesKey, placeId)
    redis.call('HSET', finishedKey, placeId, number)
    finished[#finished + 1] = placeId .. ' ' .. number
  end
end
for _, placeId in ipairs(expired) do
  local number = string.match(redis.call('HGET', placesKey, placeId) or '', '^%d+')
  if number then
    redis.call('ZREM', activeKey, placeId)
    redis.call('HDEL', placesKey, placeId)
    redis.call('HSET', finishedKey, placeId, number)
    ended[#ended + 1] = placeId .. ' ' .. number
  else
    unreadable[#unreadable + 1] = placeId
    redis.call('ZADD', activeKey, now + 600000, placeId)
  end
end
if #stale > 0 then redis.call('ZREM', hereKey, unpack(stale)) end
-- Parked places count in positions: how many stand ahead of all who wait again, and among them (line/bounds.ts).
if ahead > 0 then redis.call('HINCRBY', roomKey, 'cameAhead', ahead) end
if #missed > ahead then redis.call('HINCRBY', roomKey, 'cameAmong', #missed - ahead) end
local back = #missed + #finished
if back > 0 then
  redis.call('HSET', roomKey, 'tokens', math.min(tonumber(f[2]) * 60000, tonumber(f[1]) + back * 60000))
  redis.call('XADD', entriesKey, '*', 'kind', 'missed', 'atMs', now, 'visits', table.concat(missed, ','),
    'finished', table.concat(finished, ','))
end
if #ended > 0 then
  redis.call('XADD', entriesKey, '*', 'kind', 'ended', 'atMs', now, 'visits', table.concat(ended, ','), 'reason', 'expired')
end
redis.call('XTRIM', entriesKey, 'MAXLEN', '~', entriesMax)
local more = (#late == reapMax or #expired == reapMax) and 1 or 0
return { 'reaped', #missed, #finished, #ended, more, unreadable }
