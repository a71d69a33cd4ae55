"""The scripts of the queue: what each does, Redis does whole or not at all. The keys are in `keys.py`.

Covered: accepting, starting, cancelling, ending and giving up jobs. Not covered: who calls them (`queue.py`), fencing (`lease.py`).
"""

QUEUE_AGAIN = """
local function queue_again(job, jobs, id)
  redis.call('HDEL', job, 'dead', 'error', 'started_at', 'finished_at')
  redis.call('HSET', job, 'status', 'queued', 'attempts', 0)
  redis.call('PERSIST', job .. ':events')  -- they were to go an hour after the end, which it was not
  redis.call('XADD', job .. ':events', '*', 'status', 'queued')
  redis.call('XADD', jobs, '*', 'job', id)
end
"""
"""For scripts that queue a job which had ended, as if it had never been tried. Its followers see it go on."""

ACCEPT = """
local jobs, documents, idempotency = KEYS[1], KEYS[2], KEYS[3]
local prefix, now, limit, body = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local anew = {failed = true, cancelled = true, rejected = true}
local left = cjson.decode(ARGV[9])
local wanted = cjson.decode(ARGV[5])
if idempotency ~= '' then
  local before = redis.call('GET', idempotency)
  if before then
    before = cjson.decode(before)
    if before.body ~= body then return {'reused'} end
    return {'ok', cjson.encode(before.jobs)}
  end
end
local answer, fresh, planned, known_already = {}, {}, {}, {}
for _, d in ipairs(wanted) do
  local key = prefix .. d.document_id
  local known = redis.call('HMGET', key, 'sha256', 'job', 'forgetting', 'lost')
  local status = known[2] and redis.call('HGET', 'infold:job:' .. known[2], 'status')
  if planned[d.document_id] and planned[d.document_id].sha256 == d.sha256 then
    table.insert(answer, planned[d.document_id].job_id)
  elseif known[1] == d.sha256 and not known[3] and not known[4] and status and not anew[status]
    and not (status == 'succeeded' and left[d.document_id]) then
    table.insert(answer, known[2])
    table.insert(known_already, d)
  else
    planned[d.document_id] = d
    table.insert(fresh, d)
    table.insert(answer, d.job_id)
  end
end
local depth = redis.call('XLEN', jobs)
if #fresh > 0 and depth + #fresh > limit then return {'full', depth} end
for _, d in ipairs(known_already) do
  if d.metadata ~= '{}' then redis.call('HSET', prefix .. d.document_id, 'metadata', d.metadata) end
end
for _, d in ipairs(fresh) do
  local before = redis.call('HGET', prefix .. d.document_id, 'job')
  before = before and 'infold:job:' .. before
  if before and redis.call('HGET', before, 'status') == 'queued' then  -- its text is about to be replaced
    redis.call('HSET', before, 'status', 'cancelled', 'finished_at', now, 'error', 'superseded by ' .. d.job_id)
    redis.call('XADD', before .. ':events', '*', 'status', 'cancelled')
    redis.call('EXPIRE', before .. ':events', 3600)
  end
  local jobs_before = redis.call('HGET', prefix .. d.document_id, 'jobs')
  redis.call('HDEL', prefix .. d.document_id, 'version', 'tokens', 'learned_at', 'nothing', 'rejected', 'forgetting', 'lost')
  redis.call('HSET', prefix .. d.document_id, 'text', d.text, 'sha256', d.sha256, 'metadata', d.metadata,
    'job', d.job_id, 'jobs', (jobs_before and jobs_before .. ' ' or '') .. d.job_id, 'accepted_at', now)
  redis.call('ZADD', documents, now, d.document_id)
  redis.call('HSET', 'infold:job:' .. d.job_id, 'job_id', d.job_id, 'namespace', ARGV[6], 'document_id', d.document_id,
    'status', 'queued', 'accepted_at', now, 'attempts', 0)
  if ARGV[8] ~= '' then redis.call('HSET', 'infold:job:' .. d.job_id, 'traceparent', ARGV[8]) end
  redis.call('XADD', 'infold:job:' .. d.job_id .. ':events', '*', 'status', 'queued')
  redis.call('XADD', jobs, '*', 'job', d.job_id)
end
if idempotency ~= '' then
  redis.call('SET', idempotency, cjson.encode({body = body, jobs = answer}), 'EX', ARGV[7])
end
return {'ok', cjson.encode(answer)}
"""

START = """
local _, job, events = unpack(KEYS)
local status = redis.call('HGET', job, 'status')
if status == 'queued' or status == 'running' then
  redis.call('HINCRBY', job, 'attempts', 1)
  redis.call('HSET', job, 'status', 'running', 'started_at', ARGV[2])
  redis.call('XADD', events, '*', 'status', 'running')
end
return redis.call('HGETALL', job)
"""

CANCEL = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' then return status end
redis.call('HSET', KEYS[1], 'status', 'cancelled', 'finished_at', ARGV[1])
if redis.call('HGET', KEYS[3], 'forgetting') == ARGV[3] then redis.call('HDEL', KEYS[3], 'forgetting') end
redis.call('XADD', KEYS[2], '*', 'status', 'cancelled')
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 'cancelled'
"""

END = """
local _, job, events = unpack(KEYS)
local _, final, now, keep = unpack(ARGV)
local status = redis.call('HGET', job, 'status')
if status ~= 'queued' and status ~= 'running' then return status end
redis.call('HSET', job, 'status', final, 'finished_at', now, unpack(ARGV, 5))
redis.call('XADD', events, '*', 'status', final)
redis.call('EXPIRE', events, keep)
return final
"""

BURY = """
local _, job, events, jobs, dead = unpack(KEYS)
local _, now, keep, error, group, entry = unpack(ARGV)
local status, id, document, attempts = unpack(redis.call('HMGET', job, 'status', 'job_id', 'document_id', 'attempts'))
if status == 'running' then  -- not queued: it may have been buried and retried, and the answer lost
  local letter = redis.call('XADD', dead, '*', 'job', id, 'document', document, 'attempts', attempts, 'error', error)
  redis.call('HSET', job, 'status', 'failed', 'finished_at', now, 'error', error, 'dead', letter)
  redis.call('XADD', events, '*', 'status', 'failed')
  redis.call('EXPIRE', events, keep)
  status = 'failed'
end
redis.call('XACK', jobs, group, entry)
redis.call('XDEL', jobs, entry)
return status
"""
