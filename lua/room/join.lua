-- room.join: gives a visitor a place at the back of the line, or says which place the visitor holds. A parked
-- place returns with its score: joining is an act of its owner. A verdict other than allow stands in withheld.
-- KEYS: room line parked withheld promoted active places here
-- ARGV: nowMs(ms, '' = Redis TIME) sale placeId drawScore(or '') verdict lineMax(places) withheldMax(places)
-- Returns: unknown | otherSale <sale> | held <state> <number> <score> <untilMs> <epoch> | recovering <untilMs> | closed | notOpen <opensAt> | full | joined <state> <number> <score> <epoch>
-- Cost: O(log n), at most 16 commands
local roomKey, lineKey, parkedKey, withheldKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local promotedKey, activeKey, placesKey, hereKey = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local nowArg, saleArg, placeId, drawScore = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local verdict, lineMax, withheldMax = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])

local f = redis.call('HMGET', roomKey, 'sale', 'epoch', 'recoveringUntil', 'closesAt', 'queueingMethod',
  'opensAt', 'prequeueStartsAt', 'shuffleAtOpen', 'nearScore')
if not f[1] then return { 'unknown' } end
if f[1] ~= saleArg then return { 'otherSale', tonumber(f[1]) } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local epoch = tonumber(f[2])

local entry = redis.call('HGET', placesKey, placeId)
local number, score
if entry then
  number, score = string.match(entry, '^(%d+) (%-?%d+)')
  number, score = tonumber(number), tonumber(score)
end
local untilMs = redis.call('ZSCORE', activeKey, placeId)
if untilMs then return { 'held', 'active', number, score, tonumber(untilMs), epoch } end
untilMs = redis.call('ZSCORE', promotedKey, placeId)
if untilMs then return { 'held', 'promoted', number, score, tonumber(untilMs), epoch } end
local held = tonumber(redis.call('ZSCORE', lineKey, placeId) or redis.call('ZSCORE', parkedKey, placeId))
if held then
  if redis.call('ZREM', parkedKey, placeId) == 1 then redis.call('ZADD', lineKey, held, placeId) end
  redis.call('ZADD', hereKey, now, placeId)
  return { 'held', 'waiting', number or held, held, 0, epoch }
end
held = tonumber(redis.call('ZSCORE', withheldKey, placeId))
if held then return { 'held', 'withheld', number or held, held, 0, epoch } end

local opensAt, closesAt, prequeueAt = tonumber(f[6]), tonumber(f[4]), tonumber(f[7])
if now < tonumber(f[3]) then return { 'recovering', tonumber(f[3]) } end
if f[5] == 'reject' or (closesAt > 0 and now >= closesAt) then return { 'closed' } end
local beforeOpening = now < opensAt
if beforeOpening and (prequeueAt == 0 or now < prequeueAt) then return { 'notOpen', opensAt } end
if redis.call('ZCARD', lineKey) >= lineMax then return { 'full' } end

number = redis.call('HINCRBY', roomKey, 'nextNumber', 1)
score = number
if beforeOpening and f[8] == '1' and drawScore ~= '' then
  score = tonumber(drawScore)
  redis.call('HSET', placesKey, placeId, string.format('%d %d 0 0', number, score))
end
if verdict ~= 'allow' then
  redis.call('ZADD', withheldKey, score, placeId)
  if redis.call('ZCARD', withheldKey) > withheldMax then redis.call('ZPOPMIN', withheldKey) end
  return { 'joined', 'withheld', number, score, epoch }
end
redis.call('ZADD', lineKey, score, placeId)
if not f[9] or score <= tonumber(f[9]) then redis.call('ZADD', hereKey, now, placeId) end
return { 'joined', 'waiting', number, score, epoch }
