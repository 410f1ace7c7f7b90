-- The heartbeat of a gateway: takes over what dead gateways left, notes the progress of running tickets, fills slots,
-- and tells the gateway all about its tickets.
--
-- ARGV[5]   seconds of silence after which a gateway is dead
-- ARGV[6..] pairs: ticket, cost so far
-- Returns   {slots, {running ticket, …}, {{waiting ticket, position, eta, lag}, …},
--            {{lost ticket, request, user, class, cost, weight, unit, note, spent}, …}}

local function reclaim(dead)
  for _, id in ipairs(redis.call('SMEMBERS', key('owned', dead))) do
    local ticket = find('waiting', id)
    if ticket then
      leave_line(ticket, 0)
      owner_forgets(ticket)
    else
      ticket = find('running', id)
      if ticket then
        stop(ticket)
      else
        ticket = find('lost', id)
      end
      if ticket then
        own(ticket, gateway)
        save('lost', ticket)
      end
    end
  end
  redis.call('DEL', key('owned', dead))
  redis.call('ZREM', key('gateways'), dead)
end

for _, dead in ipairs(redis.call('ZRANGEBYSCORE', key('gateways'), '-inf', text(now - tonumber(ARGV[5])))) do
  reclaim(dead)
end

for i = 6, #ARGV, 2 do
  local ticket = find('running', ARGV[i])
  if ticket then
    ticket.spent = tonumber(ARGV[i + 1])
    -- A request that costs more than was thought is charged before it ends.
    if ticket.spent > ticket.charged then
      charge(ticket, ticket.spent)
    end
    save('running', ticket)
  end
end

forget_idle()
admit()

local running, waiting, lost = {}, {}, {}
for _, id in ipairs(redis.call('SMEMBERS', key('owned', gateway))) do
  if redis.call('HEXISTS', key('running'), id) == 1 then
    table.insert(running, id)
  else
    local left = find('lost', id)
    if left then
      table.insert(lost, {
        id, left.request, left.user, left.class, text(left.cost), text(left.weight), left.unit, left.note,
        text(left.spent or 0),
      })
    end
  end
end
for _, ticket in ipairs(in_order()) do
  if ticket.gateway == gateway then
    table.insert(waiting, {ticket.id, ticket.position, eta(ticket.ahead, ticket.cost), text(ticket.lag)})
  end
end
return {meta('slots'), running, waiting, lost}
