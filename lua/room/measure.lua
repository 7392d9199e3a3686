-- room.measure: counts what a snapshot is made of at one instant, and changes nothing. The head of the line is listed
-- with its scores; further back it counts who stands before each of the fixed scores it is asked for (all of them
-- behind what is listed; for others the count means nothing).
-- KEYS: room line parked withheld promoted active
-- ARGV: nowMs(ms, '' = Redis TIME) freshMs(ms) listMin(places) listMax(places) listedTo(score) ...scores
-- Returns: unknown | fresh | measured <atMs> <room's fields> <waiting> <parked> <withheld> <promoted> <active> <scores listed> <parked scores among them> <parkedBefore> <parkedAt> <ranks> <nearScore>
-- Cost: O(listMax + k log n) for k scores; the caller asks for at most 64, and for all of up to 1,000 after places came back
local roomKey, lineKey, parkedKey, withheldKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local promotedKey, activeKey = KEYS[5], KEYS[6]
local nowArg, freshMs, listMin, listMax, listedTo = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

local fields = redis.call('HGETALL', roomKey)
local r = {}
for i = 1, #fields, 2 do r[fields[i]] = fields[i + 1] end
if not r.epoch then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local age = now - (tonumber(r.snapshotAt) or 0)
if age >= 0 and age < freshMs then return { 'fresh' } end

-- Scores leave as one text each: a thousand small replies would cost more than finding them.
local function scoresOf(list)
  local scores = {}
  for i = 2, #list, 2 do scores[i / 2] = list[i] end
  return scores
end
-- Whatever was listed once stays listed until it is passed, or a place that returns at the head would push it out.
local count = math.min(listMax, math.max(listMin, redis.call('ZCOUNT', lineKey, '-inf', listedTo)))
local listed = scoresOf(redis.call('ZRANGE', lineKey, 0, count - 1, 'WITHSCORES'))
local parked = redis.call('ZCARD', parkedKey)
local between, parkedBefore, parkedAt = {}, parked, {}
if parked > 0 and #listed > 0 then
  local last = listed[#listed]
  between = scoresOf(redis.call('ZRANGE', parkedKey, last, listed[1], 'BYSCORE', 'REV', 'LIMIT', 0, listMax, 'WITHSCORES'))
  parkedBefore = redis.call('ZCOUNT', parkedKey, '-inf', last) - #between
  -- Who came back from deep among the parked stands before those that fit the list.
  local lowest = parkedBefore > 0 and tonumber(between[#between])
  for i = 1, lowest and #listed or 0 do
    if tonumber(listed[i]) > lowest then break end
    parkedAt[i] = redis.call('ZCOUNT', parkedKey, '-inf', listed[i])
  end
end
local parkedAhead = parkedBefore + #between
local ranks = {}
for i = 6, #ARGV do
  local below = '(' .. ARGV[i]
  ranks[#ranks + 1] = redis.call('ZCOUNT', lineKey, '-inf', below) + parkedAhead
  if parkedAhead < parked then
    ranks[#ranks] = ranks[#ranks] - parkedAhead + redis.call('ZCOUNT', parkedKey, '-inf', below)
  end
end
local function numberOf(name) return tonumber(r[name]) or 0 end
local nearRank = math.ceil(numberOf('newUsersPerMinute') * numberOf('graceSeconds') / 30) + numberOf('effectiveBurst')
nearRank = math.max(100, nearRank)
local near = redis.call('ZRANGE', lineKey, nearRank, nearRank, 'WITHSCORES')
return { 'measured', now, fields, redis.call('ZCARD', lineKey), parked, redis.call('ZCARD', withheldKey),
  redis.call('ZCARD', promotedKey), redis.call('ZCARD', activeKey), table.concat(listed, ' '),
  table.concat(between, ' '), parkedBefore, parkedAt, ranks, near[2] or '9007199254740991' }
