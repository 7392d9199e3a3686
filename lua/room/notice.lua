-- room.notice: shows a message to everyone in the room, or takes it away when the text is empty.
-- KEYS: room entries
-- ARGV: nowMs(ms, '' = Redis TIME) noticeId text level
-- Returns: unknown | noticed
-- Cost: O(1)
local roomKey, entriesKey = KEYS[1], KEYS[2]
local nowArg, noticeId, text, level = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if redis.call('EXISTS', roomKey) == 0 then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))

redis.call('HSET', roomKey, 'noticeId', noticeId, 'noticeText', text, 'noticeLevel', level)
redis.call('XADD', entriesKey, '*', 'kind', 'notice', 'atMs', now, 'noticeId', noticeId, 'text', text, 'level', level)
return { 'noticed' }
