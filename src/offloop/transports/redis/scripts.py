"""What has to be decided at the broker itself, because nobody else sees it all at that moment: scripts in Lua.

Owns their text and how they are called. They touch what is in their KEYS, and nothing else.
"""

from collections.abc import Sequence
from hashlib import sha1

from offloop.transports.redis.names import GROUP
from offloop.transports.redis.wire import Command

Fields = tuple[str | bytes, ...]
"""Of an entry: names and values in turn."""

ADD = f"""
-- ARGV: the bound; for each request the number of its fields, and the fields. Answers ids, and nil for what is refused.
-- What waits is what is in the stream and was not delivered: finished entries are deleted.
local pending = redis.pcall('XPENDING', KEYS[1], '{GROUP}')
if pending.err then
  redis.call('XGROUP', 'CREATE', KEYS[1], '{GROUP}', '0', 'MKSTREAM')
  pending = {{0}}
end
local room = tonumber(ARGV[1]) - (redis.call('XLEN', KEYS[1]) - pending[1])
local added, at = {{}}, 2
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  if room > 0 then
    added[#added + 1] = redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, last))
    room = room - 1
  else
    added[#added + 1] = false
  end
  at = last + 1
end
return added
"""

WITHDRAW = f"""
-- ARGV: ids. For each: nil if it is there no more, else the consumer that has it, and how many that one has; '' and 0
-- if it was taken back.
local found = {{}}
for at, id in ipairs(ARGV) do
  local held = redis.call('XPENDING', KEYS[1], '{GROUP}', id, id, 1)
  if held[1] then
    local holder = held[1][2]
    found[at] = {{holder, #redis.call('XPENDING', KEYS[1], '{GROUP}', '-', '+', 2, holder)}}
  else
    found[at] = redis.call('XDEL', KEYS[1], id) == 1 and {{'', 0}} or false
  end
end
return found
"""

AGAIN = f"""
-- KEYS: requests, an inbox. ARGV: the old id, the number of fields, the fields, and those that tell of it.
-- Once: somebody may have ended it meanwhile, and whoever asks may ask again, where an answer was lost.
if #redis.call('XPENDING', KEYS[1], '{GROUP}', ARGV[1], ARGV[1], 1) == 0 then
  return false
end
local count = tonumber(ARGV[2])
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3, 2 + count))
redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', 'i', id, unpack(ARGV, 3 + count))
redis.call('XACK', KEYS[1], '{GROUP}', ARGV[1])
redis.call('XDEL', KEYS[1], ARGV[1])
return id
"""

RENEW = f"""
-- ARGV: consumers. Renews the lease of all that each has, and tells how many that are.
local counts = {{}}
for at, consumer in ipairs(ARGV) do
  local held = redis.pcall('XPENDING', KEYS[1], '{GROUP}', '-', '+', 1000, consumer)
  counts[at] = held.err and 0 or #held
  if counts[at] > 0 then
    local ids = {{}}
    for place, entry in ipairs(held) do
      ids[place] = entry[1]
    end
    ids[#ids + 1] = 'JUSTID'  -- last of them: of an unpack in the middle Lua takes one value only
    redis.call('XCLAIM', KEYS[1], '{GROUP}', consumer, 0, unpack(ids))
  end
end
return counts
"""

LOOK = f"""
-- ARGV: who takes over, after how many milliseconds, how many, and until which second of this clock that is asked for.
-- A question that lay in a buffer while nobody could renew a lease is no evidence of anybody's end.
-- XAUTOCLAIM would look at ten times what it may take over, and no further, and at what each entry holds.
local now = redis.call('TIME')
if now[1] + now[2] / 1e6 > tonumber(ARGV[4]) then
  return {{}}
end
local held = redis.pcall('XPENDING', KEYS[1], '{GROUP}', 'IDLE', ARGV[2], '-', '+', ARGV[3])
if held.err or #held == 0 then
  return {{}}
end
local ids = {{}}
for place, entry in ipairs(held) do
  ids[place] = entry[1]
end
return redis.call('XCLAIM', KEYS[1], '{GROUP}', ARGV[1], ARGV[2], unpack(ids))
"""

DISMISS = f"""
-- ARGV: consumers. Those that have nothing are forgotten; with one that has, what it has would be.
for _, consumer in ipairs(ARGV) do
  local held = redis.pcall('XPENDING', KEYS[1], '{GROUP}', '-', '+', 1, consumer)
  if not held.err and #held == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], '{GROUP}', consumer)
  end
end
"""

SWEEP = f"""
-- ARGV: milliseconds. Consumers that have nothing, and were given nothing for so long, are forgotten: what is given to
-- one that is there all the same makes it anew.
local found = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], '{GROUP}')
for _, consumer in ipairs(found.err and {{}} or found) do
  local known = {{}}
  for at = 1, #consumer, 2 do
    known[consumer[at]] = consumer[at + 1]
  end
  if known.pending == 0 and known.idle > tonumber(ARGV[1]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], '{GROUP}', known.name)
  end
end
"""

SCRIPTS = (ADD, WITHDRAW, AGAIN, RENEW, LOOK, DISMISS, SWEEP)


def load() -> list[Command]:
    """What a new connection says first, so that a script can be called by its hash."""
    return [("SCRIPT", "LOAD", script) for script in SCRIPTS]


def add(stream: str, bound: int, entries: Sequence[Fields]) -> Command:
    """Queue them while less than `bound` wait; answered by a list of ids and nils."""
    counted = [word for entry in entries for word in (len(entry), *entry)]
    return ("EVALSHA", hash_of(ADD), 1, stream, bound, *counted)


def withdraw(stream: str, ids: Sequence[bytes]) -> Command:
    """Take back what was not delivered; answered by a list of nils and pairs: who has it, and that and what else."""
    return ("EVALSHA", hash_of(WITHDRAW), 1, stream, *ids)


def again(stream: str, inbox: str, id: bytes, fields: Fields, told: Fields) -> Command:  # noqa: A002
    """Queue what a lost worker had once more, in the place of `id`, and tell its web process its new id (field `i`).

    Answered by that id; by nil where it has ended meanwhile, and nothing was done.
    """
    return ("EVALSHA", hash_of(AGAIN), 2, stream, inbox, id, len(fields), *fields, *told)


def renew(stream: str, consumers: Sequence[str]) -> Command:
    """Renew the leases of all that these have; answered by how many each has."""
    return ("EVALSHA", hash_of(RENEW), 1, stream, *consumers)


def look(stream: str, name: str, lease: float, count: int, until: float) -> Command:
    """Take over what nobody has renewed for a lease; answered by entries, none where it is later than `until`."""
    return ("EVALSHA", hash_of(LOOK), 1, stream, name, round(lease * 1000), count, f"{until:.3f}")


def dismiss(stream: str, consumers: Sequence[str]) -> Command:
    """Forget those that have nothing any more."""
    return ("EVALSHA", hash_of(DISMISS), 1, stream, *consumers)


def sweep(stream: str, idle: float) -> Command:
    """Forget whoever has nothing and was not seen for so many seconds."""
    return ("EVALSHA", hash_of(SWEEP), 1, stream, round(idle * 1000))


def hash_of(script: str, known: dict[str, str] = {}) -> str:  # noqa: B006  (made once for each)
    """By which a script is called once it was loaded."""
    if script not in known:
        known[script] = sha1(script.encode(), usedforsecurity=False).hexdigest()
    return known[script]
