-- Tells all nodes, and keeps which breakers are open for those that come later.
-- KEYS: open breakers by the time at which they are open no longer. ARGV: channel, message, and pairs of an endpoint and
-- for how many milliseconds its breaker is open, 0 when it has closed.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 3, #ARGV, 2 do
  if ARGV[at + 1] == '0' then
    redis.call('ZREM', KEYS[1], ARGV[at])
  else
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[at + 1]), ARGV[at])
  end
end
if #ARGV > 2 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  if last[2] then
    redis.call('PEXPIREAT', KEYS[1], last[2])
  end
end
return redis.call('PUBLISH', ARGV[1], ARGV[2])
