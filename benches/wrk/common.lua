-- Requests of one scenario, and a report that the driver can read.
-- Arguments: KIND FILE; KIND is accepted, refused, think, close, upload, token, or a path. A line of
-- FILE begins with a key, or is a user token.
local heads = {}
local at = 0

function init(args)
  local kind, file = args[1], args[2]
  local method, path, body = "GET", "/", nil
  local extra = {}
  if kind == "upload" then
    method, body = "POST", string.rep("x", 10 * 1024 * 1024)
  elseif kind == "close" then
    extra["Connection"] = "close"
  elseif kind:sub(1, 1) == "/" then
    path = kind
  end
  for line in io.lines(file) do
    local secret = line:match("^(%S+)")
    if kind == "refused" then
      -- Same length, last character exchanged for one that no key has.
      secret = secret:sub(1, -2) .. "z"
    end
    local headers = { ["X-Api-Key"] = secret, ["User-Agent"] = "bench/1.0", ["Accept"] = "*/*" }
    if kind == "token" then
      headers["X-Api-Key"] = nil
      headers["Authorization"] = "Bearer " .. secret
    end
    for k, v in pairs(extra) do headers[k] = v end
    heads[#heads + 1] = wrk.format(method, path, headers, body)
    if body and #heads == 8 then break end
  end
  if kind == "think" then
    delay = function() return 10 end
  end
end

function request()
  at = at % #heads + 1
  return heads[at]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'BENCH {"requests":%d,"duration_us":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d,"p50_us":%.1f,"p99_us":%.1f}\n',
    summary.requests, summary.duration, summary.bytes,
    e.connect, e.read, e.write, e.timeout, e.status,
    latency:percentile(50), latency:percentile(99)))
end
