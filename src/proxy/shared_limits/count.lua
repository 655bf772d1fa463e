-- Counts those that have called this within the last 30 seconds.
-- ARGV: who calls; a second one says that it leaves.
local t = redis.call('TIME')
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then redis.call('DEL', KEYS[1]) end
if ARGV[2] then redis.call('ZREM', KEYS[1], ARGV[1]) else redis.call('ZADD', KEYS[1], t[1], ARGV[1]) end
-- A score of the future is of a clock that went back.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (t[1] - 30))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. (t[1] + 30), '+inf')
redis.call('PEXPIRE', KEYS[1], 60000)
return redis.call('ZCARD', KEYS[1])
