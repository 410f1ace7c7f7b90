-- Sets the number of slots, as a gateway was told it.
--
-- ARGV[5]  slots    ARGV[6]  age of the knowledge in seconds
-- Returns  the tickets of this gateway that got a slot

tell_slots(ARGV[5], tonumber(ARGV[6]))
return admit()
