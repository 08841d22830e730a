// The native API as functions. Every address is relative, so that nothing is asked of another host.

import type {
  Explained,
  Inspection,
  Job,
  Kept,
  Lesson,
  Listed,
  Painter,
  Preprocessor,
  PromptReading,
  Session,
  Settings,
  Upload,
} from "./types";

export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly retryAfter: number | null,
  ) {
    super(message);
  }
}

/** What the window hears when the server asks for a key: its session ended, or never began. */
export const NO_KEY = "safelight-no-key";

async function asked(path: string, init: RequestInit = {}): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...init });
  } catch {
    throw new Refusal(0, "the server does not answer", null);
  }
  if (answer.ok) return answer;
  if (answer.status === 401) window.dispatchEvent(new Event(NO_KEY));
  const wait = Number(answer.headers.get("retry-after"));
  throw new Refusal(answer.status, await reason(answer), wait > 0 ? wait : null);
}

async function reason(answer: Response): Promise<string> {
  try {
    const told = (await answer.json()) as { detail?: unknown };
    if (typeof told.detail === "string") return told.detail;
  } catch {
    // a proxy's page, or nothing
  }
  return `the server answered ${answer.status}`;
}

async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await asked(path, init)).json()) as T;
}

function body(values: unknown, method = "POST"): RequestInit {
  return { method, headers: { "content-type": "application/json" }, body: JSON.stringify(values) };
}

export const api = {
  submit: (settings: Settings) => json<Job>("api/jobs", body(settings)),
  job: (id: string) => json<Job>(`api/jobs/${id}`),
  jobs: (limit = 30) => json<{ jobs: Job[] }>(`api/jobs?limit=${limit}`).then((a) => a.jobs),
  cancel: (id: string) => json<Job>(`api/jobs/${id}`, { method: "DELETE" }),
  painters: () => json<{ painters: Painter[] }>("api/painters").then((a) => a.painters),

  upload: (picture: Blob) => json<Upload>("api/pictures", { method: "POST", body: picture }),
  inspect: (picture: Blob) => json<Inspection>("api/inspect", { method: "POST", body: picture }),
  recipe: (id: string) => json<{ request: Settings }>(`api/pictures/${id}/recipe`),
  remove: (id: string) => json<unknown>(`api/pictures/${id}`, { method: "DELETE" }),
  gallery: (search: string, before: string | null) => {
    const query = new URLSearchParams({ limit: "48", search });
    if (before !== null) query.set("before", before);
    return json<{ pictures: Kept[]; next: string | null }>(`api/gallery?${query}`);
  },

  preprocessors: () =>
    json<{ preprocessors: Preprocessor[] }>("api/preprocessors").then((a) => a.preprocessors),
  preprocess: (picture: string, preprocessor: string) =>
    asked("api/preprocess", body({ picture, preprocessor })).then((a) => a.blob()),

  prompt: (text: string, more: Settings) =>
    json<PromptReading>("api/prompt", body({ text, ...more })),
  list: (what: string) => json<{ [name: string]: Listed[] }>(`api/${what}`).then((a) => a[what] ?? []),
  models: () => json<{ models: Listed[]; default: string | null }>("api/models"),
  samplers: () =>
    json<{ samplers: { name: string; meaning: string; schedule: string }[] }>("api/samplers"),
  schedules: () => json<{ schedules: { name: string }[] }>("api/schedules"),
  settings: (model: string | null = null) =>
    json<{ explained: Explained[]; defaults: Settings; own: Settings; schema: Settings }>(
      model === null ? "api/settings" : `api/settings?${new URLSearchParams({ model })}`,
    ),
  limits: () => json<{ limits: { [name: string]: number } }>("api/limits"),
  useModel: (name: string) => json<{ model: string }>("api/model", body({ name })),

  teach: (picture: string) =>
    json<{ kept: boolean; job: Job | null }>("api/lessons", body({ picture })),
  lesson: (picture: string) => json<Lesson>(`api/lessons/${picture}`),

  session: () => json<Session>("api/session"),
  open: (key: string) => json<Session>("api/session", body({ key })),
  close: () => json<Session>("api/session", { method: "DELETE" }),
};

export const pictureAt = (id: string) => `api/pictures/${id}`;
export const panelAt = (picture: string, step: number, panel: string) =>
  `api/lessons/${picture}/${step}/${panel}`;
export const thumbnailAt = (id: string, side = 256) => `api/pictures/${id}/thumbnail?side=${side}`;
