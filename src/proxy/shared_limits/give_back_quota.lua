-- Gives back what was taken from one quota and not used. ARGV: how much.
-- What all have taken and given back are counted apart: both only grow, so that a store that has lost
-- some of it can be told the rest.
local found = redis.pcall('GET', KEYS[1])
if type(found) ~= 'string' then return 0 end
local taken, back = string.match(found, '^(%d+) (%d+)$')
if not taken then return 0 end
back = math.min(tonumber(back) + tonumber(ARGV[1]), tonumber(taken))
redis.call('SET', KEYS[1], string.format('%s %.0f', taken, back), 'KEEPTTL')
return 1
