-- room.join: gives each visitor of a batch a place at the back of the line, in the order of the batch, or says which
-- place the visitor holds. One outcome a visitor: held <state> <number> <score> <untilMs>, recovering <untilMs>,
-- closed, notOpen <opensAt>, full, joined <state> <number> <score>; the usual one, joined waiting with the number as
-- its score, is the number alone. A parked place returns with its score: joining
-- is an act of its owner. A verdict other than allow stands in withheld. Whoever stands twice in a batch gets the
-- same place twice. The ledger's stream gets one record a batch.
-- KEYS: room line parked withheld promoted active places here joins
-- ARGV: nowMs(ms, '' = Redis TIME) sale lineMax(places) withheldMax(places) joinsMax(records, 0 = none) ...visitors(placeId, drawScore or '', verdict)
-- Returns: unknown | otherSale <sale> | answered <epoch> <outcomes>
-- Cost: O(k log n) for k visitors, at most 24 commands and 3 a returning place; the caller sends at most 128
local roomKey, lineKey, parkedKey, withheldKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local promotedKey, activeKey, placesKey, hereKey, joinsKey = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local nowArg, saleArg, lineMax, withheldMax, joinsMax = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local ids, draws, verdicts = {}, {}, {}
for i = 6, #ARGV, 3 do ids[#ids + 1], draws[#ids + 1], verdicts[#ids + 1] = ARGV[i], ARGV[i + 1], ARGV[i + 2] end

local f = redis.call('HMGET', roomKey, 'sale', 'epoch', 'recoveringUntil', 'closesAt', 'queueingMethod',
  'opensAt', 'prequeueStartsAt', 'shuffleAtOpen', 'nearScore', 'nextNumber')
if not f[1] then return { 'unknown' } end
if f[1] ~= saleArg then return { 'otherSale', tonumber(f[1]) } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local opensAt, closesAt, prequeueAt = tonumber(f[6]), tonumber(f[4]), tonumber(f[7])
local refused = now < tonumber(f[3]) and { 'recovering', tonumber(f[3]) }
  or (f[5] == 'reject' or (closesAt > 0 and now >= closesAt)) and { 'closed' }
  or now < opensAt and (prequeueAt == 0 or now < prequeueAt) and { 'notOpen', opensAt }

local function scoresIn(key) return redis.call('EXISTS', key) == 1 and redis.call('ZMSCORE', key, unpack(ids)) or {} end
local active, promoted, parked = scoresIn(activeKey), scoresIn(promotedKey), scoresIn(parkedKey)
local withheld, line, waiting = scoresIn(withheldKey), scoresIn(lineKey), redis.call('ZCARD', lineKey)
local outcomes, first, number, near = {}, {}, tonumber(f[10]), tonumber(f[9] or 'inf')
-- Numbers as texts: to each command that takes one, a number would be written out anew, with seventeen digits.
local nowText, inLine, aside, asideIds, here, drawn, visits = string.format('%d', now), {}, {}, {}, {}, {}, {}
for i = 1, #ids do
  local placeId, stands = ids[i], line[i] or parked[i]
  local isHeld = not first[placeId] and (stands or active[i] or promoted[i] or withheld[i])
  local own, score = string.match(isHeld and redis.call('HGET', placesKey, placeId) or '', '^(%d+) (%-?%d+)')
  if first[placeId] then outcomes[i] = outcomes[first[placeId]]
  elseif active[i] then outcomes[i] = { 'held', 'active', tonumber(own), tonumber(score), tonumber(active[i]) }
  elseif promoted[i] then outcomes[i] = { 'held', 'promoted', tonumber(own), tonumber(score), tonumber(promoted[i]) }
  elseif stands then
    if parked[i] and redis.call('ZREM', parkedKey, placeId) == 1 then redis.call('ZADD', lineKey, stands, placeId) end
    here[#here + 1], here[#here + 2] = nowText, placeId
    outcomes[i] = { 'held', 'waiting', tonumber(own or stands), tonumber(stands), 0 }
  elseif withheld[i] then outcomes[i] = { 'held', 'withheld', tonumber(own or withheld[i]), tonumber(withheld[i]), 0 }
  elseif refused then outcomes[i] = refused
  elseif waiting + #inLine / 2 >= lineMax then outcomes[i] = { 'full' }
  else
    number = number + 1
    local text, scoreText = string.format('%d', number)
    if now < opensAt and f[8] == '1' and draws[i] ~= '' then
      scoreText = string.format('%d', draws[i])
      drawn[#drawn + 1], drawn[#drawn + 2] = placeId, text .. ' ' .. scoreText .. ' 0 0'
    end
    local set = verdicts[i] == 'allow' and inLine or aside
    set[#set + 1], set[#set + 2] = scoreText or text, placeId
    if set == aside then asideIds[#asideIds + 1] = placeId
    elseif (tonumber(scoreText) or number) <= near then here[#here + 1], here[#here + 2] = nowText, placeId end
    visits[#visits + 1] = placeId .. ' ' .. text .. (scoreText and ' ' .. scoreText or '')
    outcomes[i] = set == inLine and not scoreText and number or { 'joined', set == aside and 'withheld' or 'waiting', number, tonumber(scoreText or number) }
  end
  first[placeId] = first[placeId] or i
end
if #inLine > 0 then redis.call('ZADD', lineKey, unpack(inLine)) end
if #drawn > 0 then redis.call('HSET', placesKey, unpack(drawn)) end
if #here > 0 then redis.call('ZADD', hereKey, unpack(here)) end
if #aside > 0 then redis.call('ZADD', withheldKey, unpack(aside)) redis.call('ZREMRANGEBYRANK', withheldKey, 0, -1 - withheldMax) end
redis.call('HSET', roomKey, 'nextNumber', number)
if #visits > 0 and joinsMax ~= '0' then
  redis.call('XADD', joinsKey, 'MAXLEN', '~', joinsMax, '*', 'kind', 'joined', 'atMs', now, 'sale', f[1],
    'visits', table.concat(visits, ','), 'withheld', table.concat(asideIds, ','))
end
return { 'answered', tonumber(f[2]), outcomes }
