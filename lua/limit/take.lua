-- limit.take: takes `cost` from up to three buckets, from all of them or from none. The algorithm is GCRA (ATM Forum
-- Traffic Management 4.0, section 4.4.2, virtual scheduling): a bucket is one time, at which it would be empty again.
-- KEYS: limit limitMiddle limitWide
-- ARGV: nowMs(ms, '' = Redis TIME) cost period(µs for one) burst middlePeriod(µs for one, 0 = no such bucket) middleBurst widePeriod(the same) wideBurst
-- Returns: refused <bucket, from 1> <retryAfterMs> | taken <remaining of the scarcest> <resetMs>
-- Cost: O(1), at most 7 commands
local limitKey, limitMiddleKey, limitWideKey = KEYS[1], KEYS[2], KEYS[3]
local nowArg, costArg, period, burst = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local middlePeriod, middleBurst = tonumber(ARGV[5]), tonumber(ARGV[6])
local widePeriod, wideBurst = tonumber(ARGV[7]), tonumber(ARGV[8])

local time = redis.call('TIME')
local now = nowArg == '' and (time[1] * 1000000 + time[2]) or tonumber(nowArg) * 1000
local key = { limitKey, limitMiddleKey, limitWideKey }
local periods, bursts = { period, middlePeriod, widePeriod }, { burst, middleBurst, wideBurst }
local after, remaining, reset = {}, nil, 0
local refusedBy, retryAfter

for i = 1, 3 do
  if periods[i] > 0 then
    local bucketKey = key[i]
    local window = periods[i] * bursts[i]
    -- A cost above the burst would never fit; it takes the whole bucket instead.
    local cost = math.min(costArg, bursts[i])
    local full = tonumber(redis.call('GET', bucketKey) or '') or now
    -- Time that went back would leave the stored time far ahead: never further than one whole window.
    full = math.min(math.max(full, now), now + window)
    after[i] = full + cost * periods[i]
    local wait = math.ceil((after[i] - now - window) / 1000)
    if after[i] - now > window and wait > (retryAfter or 0) then refusedBy, retryAfter = i, wait end
    remaining = math.min(remaining or math.huge, math.floor((window - (after[i] - now)) / periods[i]))
    reset = math.max(reset, math.ceil((after[i] - now) / 1000))
  end
end
if refusedBy then return { 'refused', refusedBy, retryAfter } end

for i = 1, 3 do
  local bucketKey = key[i]
  if after[i] then redis.call('SET', bucketKey, string.format('%.0f', after[i]), 'PX', math.max(1, math.ceil((after[i] - now) / 1000))) end
end
return { 'taken', remaining, reset }
