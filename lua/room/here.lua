-- room.here: notes that places whose turn is near were heard from. Places parked while away return with their
-- own score; those that missed a claim return only when their owner joins again.
-- KEYS: room line parked places here
-- ARGV: nowMs(ms, '' = Redis TIME) ...placeIds
-- Returns: unknown | noted <noted> <returned placeIds>
-- Cost: O(k log n) for k places; the caller sends at most 500
local roomKey, lineKey, parkedKey, placesKey, hereKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local nowArg = ARGV[1]
local placeIds = { unpack(ARGV, 2) }

if redis.call('EXISTS', roomKey) == 0 then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local returned, noted = {}, 0
for _, placeId in ipairs(placeIds) do
  local score = redis.call('ZSCORE', parkedKey, placeId)
  if score then
    local entry = redis.call('HGET', placesKey, placeId)
    if not entry or string.match(entry, '^%d+ %-?%d+ 0') then
      redis.call('ZREM', parkedKey, placeId)
      redis.call('ZADD', lineKey, score, placeId)
      returned[#returned + 1] = placeId
    end
  end
  if redis.call('ZSCORE', lineKey, placeId) then
    redis.call('ZADD', hereKey, now, placeId)
    noted = noted + 1
  end
end
redis.call('HSET', roomKey, 'hereAt', now)
return { 'noted', noted, returned }
