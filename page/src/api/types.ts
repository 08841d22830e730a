// What the native API tells, by the names it has there.

export type JobState = "queued" | "running" | "done" | "failed" | "cancelled";
export type Settings = { [name: string]: unknown };

export interface Job {
  id: string;
  owner: string;
  state: JobState;
  door: string;
  created: number;
  started: number | null;
  finished: number | null;
  restarted: boolean;
  step: number;
  steps: number;
  progress: number;
  position: number | null;
  eta: number | null;
  pictures: { index: number; id: string }[];
  warnings: string[];
  reason: string | null;
  error: { kind: string; message: string; id: string | null } | null;
  request: Settings & { prompt?: string; count?: number };
}

export type JobEvent =
  | { type: "queued"; job: string; position: number; eta: number | null }
  | { type: "started"; job: string; restarted: boolean }
  | {
      type: "step";
      job: string;
      step: number;
      steps: number;
      index: number;
      pictures: number;
      progress: number;
      eta: number | null;
      preview: string | null;
    }
  | { type: "picture"; job: string; index: number; picture: string; seed: number }
  | { type: "warning"; job: string; text: string }
  | { type: "failed"; job: string; error: string; message: string }
  | { type: "cancelled"; job: string; reason: string }
  | { type: "done"; job: string; seconds: number; pictures: string[] };

export interface Kept {
  id: string;
  job: string;
  index: number;
  created: number;
  width: number;
  height: number;
  seed: number;
  prompt: string;
  negative_prompt: string;
  model: string;
  warnings: string[];
}

export interface Upload {
  id: string;
  width: number;
  height: number;
  kind: string;
  size: number;
}

export interface Listed {
  name: string;
  what: string;
  bytes: number;
}

export interface Explained {
  field: string;
  meaning: string;
  panel: string;
}

export interface Painter {
  name: string;
  state: "free" | "drawing" | "loading" | "dead";
  jobs: number;
  models: string[];
  deaths: number;
}

export interface Token {
  text: string;
  ids: number[];
  weight: number;
}

export interface PromptReading {
  parts: { weight: number; timeline: { first: number; last: number; text: string }[] }[];
  networks: { kind: string; name: string }[];
  texts: { text: string; tokens: number; chunks: { length: number; tokens: Token[] }[]; notes: string[] }[];
  notes: string[];
}

export interface Inspection extends Upload {
  source: string | null;
  request: Settings | null;
  recipe: Settings | null;
  pixels_match: boolean | null;
  notes: string[];
  texts: { [name: string]: string };
}

export interface Preprocessor {
  name: string;
  label: string;
  meaning: string;
  serves: string[];
}

export interface LessonStep {
  step: number;
  sigma: number;
  time: number;
  calls: number;
  noise: number;
  guidance: number | null;
  sentence: string;
  shares: { [word: string]: number };
}

export interface Lesson {
  picture: string;
  same: boolean;
  steps: LessonStep[];
  words: { text: string; word: string }[];
  sentences: { [panel: string]: string };
}

export interface Session {
  needed: boolean;
  known: boolean;
  owner: string | null;
}
