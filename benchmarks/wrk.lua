-- POST the bytes in $BODY_FILE as $CONTENT_TYPE (GET where there are none), and print the result as one line of JSON.
local file = io.open(os.getenv("BODY_FILE"), "rb")
local body = file:read("*a")
file:close()
if body ~= "" then
  wrk.method = "POST"
  wrk.body = body
  wrk.headers["Content-Type"] = os.getenv("CONTENT_TYPE")
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "rps": %.1f, "p50": %.6f, "p99": %.6f, "max": %.6f, "failed": %d}\n',
    summary.requests, summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1e6,
    latency:percentile(99) / 1e6, latency.max / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
