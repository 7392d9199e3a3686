-- room.snapshot: keeps a snapshot for everybody, with what the next one goes on from. Of two that were measured after
-- the same predecessor the first stays, so that what people are told goes on from what they were told before.
-- KEYS: room snapshot
-- ARGV: epoch basedOnMs(ms, 0 = none before) atMs(ms) pace nearScore(score) json
-- Returns: unknown | superseded | kept
-- Cost: O(1)
local roomKey, snapshotKey = KEYS[1], KEYS[2]
local epoch, basedOnMs, atMs, pace, nearScore, json = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local f = redis.call('HMGET', roomKey, 'epoch', 'snapshotAt')
if not f[1] then return { 'unknown' } end
if f[1] ~= epoch or (f[2] or '0') ~= basedOnMs then return { 'superseded' } end

redis.call('HSET', roomKey, 'pace', pace, 'nearScore', nearScore, 'snapshotAt', atMs)
redis.call('SET', snapshotKey, json)
return { 'kept' }
