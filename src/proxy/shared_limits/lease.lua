-- Takes from all buckets of one request, or from none.
-- KEYS: buckets of one org (one hash slot). ARGV, for each bucket: what the request needs, and what
-- its sidecar would like to have (with what is needed); then
--   of a limit: interval and tolerance in microseconds;
--   of a quota: `q`, its count, the most that the sidecar has seen taken and given back, what it has
--   admitted without the store, and how long the quota is counted, in milliseconds.
-- Returns 1 or 0, and for each bucket what was taken and two numbers: of a limit, how long until its
-- burst is whole again, and 0; of a quota, what all have taken and given back so far.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local at, ok, buckets = 1, true, {}
for i = 1, #KEYS do
  local b = { need = tonumber(ARGV[at]), want = tonumber(ARGV[at + 1]) }
  -- A key of another type is garbage too, and `GET` would be an error.
  local found = redis.pcall('GET', KEYS[i])
  if type(found) ~= 'string' then found = '' end
  if ARGV[at + 2] == 'q' then
    local taken, back = string.match(found, '^(%d+) (%d+)$')
    -- A wiped store is told by whoever knows more.
    b.a = math.max(tonumber(taken) or 0, tonumber(ARGV[at + 4])) + tonumber(ARGV[at + 6])
    b.b = math.min(math.max(tonumber(back) or 0, tonumber(ARGV[at + 5])), b.a)
    b.left = math.max(0, tonumber(ARGV[at + 3]) - (b.a - b.b))
    b.ttl = ARGV[at + 7]
    at = at + 8
  else
    local tol, v = tonumber(ARGV[at + 3]), tonumber(found) or 0
    b.iv = tonumber(ARGV[at + 2])
    if v ~= v or v < now then v = now end
    -- The clock went back, or garbage: full, and stored so, else full until `now` gets there.
    if v > now + tol then
      v = now + tol
      redis.call('SET', KEYS[i], string.format('%.0f', v), 'PX', math.ceil(tol / 1000) + 1)
    end
    b.a = v
    -- What is taken is rounded to whole microseconds.
    b.left = math.floor((tol - (v - now)) / b.iv + 0.000001)
    at = at + 4
  end
  if b.left < b.need then ok = false end
  buckets[i] = b
end
local out = { ok and 1 or 0 }
for i, b in ipairs(buckets) do
  local k = 0
  if ok then k = math.min(b.left, math.max(b.need, math.min(b.want, math.floor(b.left / 2)))) end
  out[#out + 1] = k
  if b.ttl then
    b.a = b.a + k
    redis.call('SET', KEYS[i], string.format('%.0f %.0f', b.a, b.b), 'PX', b.ttl)
    out[#out + 1] = b.a
    out[#out + 1] = b.b
  else
    if k > 0 then
      b.a = b.a + k * b.iv
      redis.call('SET', KEYS[i], string.format('%.0f', b.a), 'PX', math.ceil((b.a - now) / 1000) + 1)
    end
    out[#out + 1] = b.a - now
    out[#out + 1] = 0
  end
end
return out
