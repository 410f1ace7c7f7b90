-- Gives up a place, a slot, or what is left of a dead gateway's ticket, and fills what came free. Repeating it
-- changes nothing.
--
-- ARGV[5]  ticket    ARGV[6]  its true cost, or ''
-- Returns  the tickets of this gateway that got a slot

local id, cost = ARGV[5], tonumber(ARGV[6])
local ticket = find('waiting', id)
if ticket then
  leave_line(ticket, 0)
else
  ticket = find('running', id)
  if ticket then
    stop(ticket)
    charge(ticket, cost or ticket.charged)
    if ticket.charged > 0 and now > ticket.started then
      measure(ticket.charged, now - ticket.started)
    end
  else
    ticket = find('lost', id)
    redis.call('HDEL', key('lost'), id)
  end
end
if ticket then
  owner_forgets(ticket)
end
return admit()
