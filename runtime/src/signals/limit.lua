-- The generic cell rate algorithm of limits.rs on the time of Redis, in microseconds.
-- KEYS: the subject. ARGV: interval, budget, 1 to count the request and 0 only to look.
-- Answers how far ahead of now the subject's budget was spoken for before this request.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, budget = tonumber(ARGV[1]), tonumber(ARGV[2])
local stored = tonumber(redis.call('GET', KEYS[1]) or 0)
local ahead = math.min(math.max(stored - now, 0), budget)
local after = ahead + interval
if ARGV[3] == '1' and after <= budget then
  -- Sixteen digits: Lua's own way of writing numbers would lose two of them.
  redis.call('SET', KEYS[1], string.format('%.0f', now + after), 'PX', string.format('%.0f', math.ceil(after / 1000)))
end
return ahead
