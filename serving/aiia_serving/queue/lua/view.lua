-- Looks at the queue.
--
-- ARGV[5]  'load' or 'places'
-- Returns  load: {slots, speed or '', {{class, waits, cost}, … of waiting}, {cost, … of running}}
--          places: {{request, user, class, position, eta, waited}, …}

local rows = {}
if ARGV[5] == 'load' then
  local waiting, running = all('waiting'), all('running')
  for i, ticket in ipairs(waiting) do
    waiting[i] = {ticket.class, text(now - ticket.entered), text(ticket.cost)}
  end
  for i, ticket in ipairs(running) do
    running[i] = text(ticket.cost)
  end
  local rate = speed()
  return {meta('slots'), rate and text(rate) or '', waiting, running}
end
for _, ticket in ipairs(all('running')) do
  table.insert(rows, {ticket.request, ticket.user, ticket.class, 0, '0', text(ticket.started - ticket.entered)})
end
for _, ticket in ipairs(in_order()) do
  table.insert(rows, {
    ticket.request, ticket.user, ticket.class, ticket.position, eta(ticket.ahead, ticket.cost), text(now - ticket.entered),
  })
end
return rows
