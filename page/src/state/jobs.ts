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
}

/** The newest jobs first, kept up to date; `finished` is told of each that is done. */
export function useJobs(finished: () => void): Jobs {
  const [jobs, setJobs] = useState<Followed[]>([]);
  const ends = useRef(new Map<string, () => void>());
  const told = useRef(finished);
  told.current = finished;

  const watch = useCallback((id: string) => {
    if (ends.current.has(id)) return;
    const end = follow(id, (event) => {
      setJobs((known) => known.map((job) => (job.id === id ? after(job, event) : job)));
      if (event.type === "done" || event.type === "failed" || event.type === "cancelled") {
        ends.current.delete(id);
        told.current();
      }
    });
    ends.current.set(id, end);
  }, []);

  const reload = useCallback(async () => {
    const found = await api.jobs();
    setJobs((known) =>
      found.map((job) => ({ ...job, preview: known.find((k) => k.id === job.id)?.preview ?? null })),
    );
    for (const job of found) if (!isOver(job)) watch(job.id);
  }, [watch]);

  useEffect(() => {
    const held = ends.current;
    return () => {
      for (const end of held.values()) end();
      held.clear();
    };
  }, []);

  const adopt = useCallback(
    (made: Job) => {
      const job = { ...made, preview: null };
      setJobs((known) => [job, ...known.filter((k) => k.id !== job.id)]);
      watch(job.id);
      return job;
    },
    [watch],
  );

  const submit = useCallback(
    async (settings: Settings) => adopt(await api.submit(settings)),
    [adopt],
  );

  const cancel = useCallback(async (id: string) => {
    const job = await api.cancel(id);
    setJobs((known) => known.map((k) => (k.id === id ? { ...k, ...job } : k)));
  }, []);

  return { jobs, submit, adopt, cancel, reload };
}
