// The server's API: requests with the key, errors as sentences, streams as documents.

let key = null; // in memory only

export const setKey = (given) => (key = given);

/** Something the user should read, as a sentence. */
export class Problem extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The model as /v1/models describes it. */
export async function loadModel() {
  const document = await (await ask("v1/models")).json();
  return document.data[0];
}

/** The chunks of a streamed chat answer, as they come. */
export async function* streamChat(body, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Problem(`The answer broke off: ${chunk.error.message}`);
    yield chunk;
  }
  throw new Problem("The answer broke off: the connection to the server ended.");
}

/** Answers under way or waiting, and the tokens that the server has written in all. */
export async function loadCounts() {
  const text = await (await ask("metrics")).text();
  const sum = (name) =>
    text
      .split("\n")
      .filter((line) => line.startsWith(`vllm:${name}{`))
      .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(" "))), 0);
  return {
    active: sum("num_requests_running") + sum("num_requests_waiting"),
    tokens: sum("generation_tokens_total"),
  };
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key === null ? {} : { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let message = `it answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // A proxy's page, perhaps: its status says enough.
  }
  const said = response.status < 500 ? "The server refused this" : "The server failed";
  return new Problem(`${said}: ${message}`, response.status);
}

/** The data of each server-sent event. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The answer broke off: the connection to the server was lost.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
