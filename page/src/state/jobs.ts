// The jobs of the server, as this page knows them: asked for once, then followed one by one. They
// live on the server, so a reload finds them as they are.

import { useCallback, useEffect, useRef, useState } from "react";

import { api } from "../api/client";
import { follow } from "../api/events";
import type { Job, JobEvent, Settings } from "../api/types";

export interface Followed extends Job {
  preview: string | null;
}

const OVER = new Set(["done", "failed", "cancelled"]);
export const isOver = (job: Job) => OVER.has(job.state);

/** The job after an event. */
export function after(job: Followed, event: JobEvent): Followed {
  switch (event.type) {
    case "queued":
      return { ...job, state: "queued", position: event.position, eta: event.eta };
    case "started":
      return { ...job, state: "running", restarted: event.restarted, position: null };
    case "step":
      return {
        ...job,
        state: "running",
        step: event.step,
        steps: event.steps,
        progress: event.progress,
        eta: event.eta,
        preview: event.preview ?? job.preview,
      };
    case "picture": {
      const others = job.pictures.filter((p) => p.index !== event.index);
      const pictures = [...others, { index: event.index, id: event.picture }];
      return { ...job, pictures: pictures.sort((a, b) => a.index - b.index) };
    }
    case "warning":
      return job.warnings.includes(event.text)
        ? job
        : { ...job, warnings: [...job.warnings, event.text] };
    case "failed":
      return {
        ...job,
        state: "failed",
        preview: null,
        error: { kind: event.error, message: event.message, id: null },
      };
    case "cancelled":
      return { ...job, state: "cancelled", preview: null, reason: event.reason };
    case "done":
      return { ...job, state: "done", progress: 1, preview: null, eta: 0 };
  }
}

export interface Jobs {
  jobs: Followed[];
  submit: (settings: Settings) => Promise<Followed>;
  adopt: (job: Job) => Followed;
  cancel: (id: string) => Promise<void>;
  reload: () => Promise<void>;
  earlier: (() => void) | null; // asks for those before; null: there are none
}

/** What was known with what the server tells now, the newest first. */
function joined(known: Followed[], told: Job[]): Followed[] {
  const before = new Map(known.map((job) => [job.id, job]));
  for (const job of told) before.set(job.id, { ...job, preview: before.get(job.id)?.preview ?? null });
  return [...before.values()].sort((a, b) => b.created - a.created);
}

// A browser keeps six connections to a host, all its windows together: more streams than a few, and
// nothing else is answered. What is not followed is asked for; a window that nobody sees does neither.
const STREAMS = 3;
const PAUSE = 2000; // milliseconds
const PAGE = 30;
const MOST = 500; // jobs in one answer

/** The newest jobs first, kept up to date; `finished` is told of each that is over. */
export function useJobs(finished: () => void): Jobs {
  const [jobs, setJobs] = useState<Followed[]>([]);
  const [limit, setLimit] = useState(PAGE);
  const [more, setMore] = useState(false);
  const seen = useSeen();
  const ends = useRef(new Map<string, () => void>());
  const told = useRef(finished);
  told.current = finished;

  const reload = useCallback(async () => {
    const found = await api.jobs(limit);
    setJobs((known) => joined(known, found));
    setMore(found.length === limit && limit < MOST);
  }, [limit]);

  // those that run, then those that wait longest
  const open = jobs.filter((job) => !isOver(job)).sort(sooner);
  const wanted = seen ? open.slice(0, STREAMS).map((job) => job.id) : [];
  const followed = wanted.join(" ");
  useEffect(() => {
    const ids = new Set(followed.split(" ").filter(Boolean));
    for (const [id, end] of ends.current)
      if (!ids.has(id)) {
        end();
        ends.current.delete(id);
      }
    for (const id of ids) {
      if (ends.current.has(id)) continue;
      const end = follow(id, (event) => {
        setJobs((known) => known.map((job) => (job.id === id ? after(job, event) : job)));
        if (event.type === "done" || event.type === "failed" || event.type === "cancelled")
          told.current();
      });
      ends.current.set(id, end);
    }
  }, [followed]);

  const asking = seen && open.length > STREAMS;
  useEffect(() => {
    if (!asking) return;
    const timer = window.setInterval(() => void reload().catch(() => undefined), PAUSE);
    return () => window.clearInterval(timer);
  }, [asking, reload]);

  useEffect(() => {
    if (seen) reload().catch(() => undefined);
  }, [seen, reload]);

  useEffect(() => {
    const held = ends.current;
    return () => {
      for (const end of held.values()) end();
      held.clear();
    };
  }, []);

  const adopt = useCallback((made: Job) => {
    setJobs((known) => joined(known, [made]));
    return { ...made, preview: null };
  }, []);

  const submit = useCallback(
    async (settings: Settings) => adopt(await api.submit(settings)),
    [adopt],
  );

  const cancel = useCallback(async (id: string) => {
    const job = await api.cancel(id);
    setJobs((known) => known.map((k) => (k.id === id ? { ...k, ...job } : k)));
    if (isOver(job)) told.current();
  }, []);

  const earlier = more ? () => setLimit((now) => Math.min(2 * now, MOST)) : null;
  return { jobs, submit, adopt, cancel, reload, earlier };
}

/** What the server draws first. */
function sooner(a: Job, b: Job): number {
  const running = (job: Job) => (job.state === "running" ? 0 : 1);
  return running(a) - running(b) || a.created - b.created;
}

/** Whether this window is looked at. */
function useSeen(): boolean {
  const [seen, setSeen] = useState(!document.hidden);
  useEffect(() => {
    const look = () => setSeen(!document.hidden);
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);
  return seen;
}
