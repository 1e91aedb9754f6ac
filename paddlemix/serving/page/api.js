// The server's HTTP API, as far as the page needs it.

const KEY = "paddlemix.key";
const EVENT_END = "\n\n";
const STATES = new Set(["ready", "loading", "draining", "failed", "stalled"]);

/** An answer with an error. `status` 0: there was none, or it ended too early (`code` "network" or "cut"). */
export class APIError extends Error {
  constructor(status, code, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** The key of this tab; null to forget it. */
export function setKey(key) {
  if (key === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

/** The models there are: [{id, max_model_len}]. */
export async function models() {
  return (await (await request("v1/models")).json()).data;
}

/** "ready", "loading", "draining", "failed", "stalled", or "offline" where nobody answers. */
export async function serverState() {
  try {
    const response = await fetch("health/ready", { cache: "no-store" });
    const { status } = await response.json();
    return STATES.has(status) ? status : "offline";
  } catch {
    return "offline";
  }
}

/**
 * The pieces of an answer as they come: the chunks of a stream of /v1/chat/completions.
 * @throws {APIError} also for an error in the midst of the stream; an AbortError when `signal` says so.
 */
export async function* chat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body, signal)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new APIError(response.status, chunk.error.code, chunk.error.message);
    yield chunk;
  }
  throw new APIError(0, "cut", "");
}

/** The data of server-sent events; comments are left out. */
async function* events(stream, signal) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      for (let end = rest.indexOf(EVENT_END); end >= 0; end = rest.indexOf(EVENT_END)) {
        const lines = rest.slice(0, end).split("\n");
        rest = rest.slice(end + EVENT_END.length);
        const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
        if (data.length) yield data.join("\n");
      }
    }
  } catch (error) {
    throw signal.aborted ? error : new APIError(0, "cut", "");
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options, headers });
  } catch (error) {
    throw options.signal?.aborted ? error : new APIError(0, "network", "");
  }
  if (response.ok) return response;
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const { error } = await response.json().catch(() => ({ error: null }));
  throw new APIError(response.status, error?.code ?? "", error?.message ?? `HTTP ${response.status}`, retryAfter);
}
