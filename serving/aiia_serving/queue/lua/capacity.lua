-- Sets the number of slots, unless someone has told it from newer knowledge.
--
-- ARGV[5]  slots    ARGV[6]  age of the knowledge in seconds
-- Returns  the tickets of this gateway that got a slot

local told = now - tonumber(ARGV[6])
if told >= meta('told') then
  redis.call('HSET', key('meta'), 'slots', ARGV[5], 'told', text(told))
end
return admit()
