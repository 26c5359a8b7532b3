-- Which breakers are open, and for how long: endpoint, milliseconds, and so on.
-- KEYS: as tell.lua keeps them.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local open = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf', 'WITHSCORES')
local all = {}
for at = 1, #open, 2 do
  all[at] = open[at]
  all[at + 1] = open[at + 1] - now
end
return all
