// A job's events. The browser's EventSource comes back by itself and says the last event it had.

import type { JobEvent } from "./types";

const KINDS = ["queued", "started", "step", "picture", "warning", "failed", "cancelled", "done"];
const LAST = new Set(["failed", "cancelled", "done"]);

/** Tells each event of a job, and ends after its last; what is returned ends it before. */
export function follow(id: string, tell: (event: JobEvent) => void): () => void {
  const source = new EventSource(`api/jobs/${id}/events`);
  const hear = (message: MessageEvent<string>) => {
    const event = JSON.parse(message.data) as JobEvent;
    tell(event);
    if (LAST.has(event.type)) source.close();
  };
  for (const kind of KINDS) source.addEventListener(kind, hear as EventListener);
  source.onmessage = hear;
  return () => source.close();
}
