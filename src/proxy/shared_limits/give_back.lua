-- Gives back what was taken from one bucket and not used.
-- ARGV: interval in microseconds, how much.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local found = redis.pcall('GET', KEYS[1])
local v = type(found) == 'string' and tonumber(found) or 0
-- Nothing there, garbage, or whole again: there is nothing to give back to.
if v ~= v or v <= now then return 0 end
local nt = math.max(now, v - tonumber(ARGV[2]) * tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%.0f', nt), 'PX', math.ceil((nt - now) / 1000) + 1)
return 1
