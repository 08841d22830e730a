// What there is to draw with, and what settings mean: asked for once, and again when asked to.

import { useCallback, useEffect, useState } from "react";

import { api } from "../api/client";
import type { Explained, Listed, Settings } from "../api/types";

export interface Catalogue {
  models: Listed[];
  model: string | null;
  loras: Listed[];
  embeddings: Listed[];
  vaes: Listed[];
  controls: Listed[];
  upscalers: Listed[];
  samplers: { name: string; meaning: string; schedule: string }[];
  schedules: string[];
  explained: Map<string, Explained>;
  defaults: Settings;
  limits: { [name: string]: number };
}

export async function catalogue(): Promise<Catalogue> {
  const [models, loras, embeddings, vaes, controls, upscalers, samplers, schedules, told, limits] =
    await Promise.all([
      api.models(),
      api.list("loras"),
      api.list("embeddings"),
      api.list("vaes"),
      api.list("controls"),
      api.list("upscalers"),
      api.samplers(),
      api.schedules(),
      api.settings(),
      api.limits(),
    ]);
  return {
    models: models.models,
    model: models.default,
    loras,
    embeddings,
    vaes,
    controls,
    upscalers,
    samplers: samplers.samplers,
    schedules: schedules.schedules.map((s) => s.name),
    explained: new Map(told.explained.map((one) => [one.field, one])),
    defaults: told.defaults,
    limits: limits.limits,
  };
}

export function useCatalogue(): { found: Catalogue | null; error: string | null; again: () => void } {
  const [found, setFound] = useState<Catalogue | null>(null);
  const [error, setError] = useState<string | null>(null);
  const again = useCallback(() => {
    catalogue().then(
      (c) => {
        setFound(c);
        setError(null);
      },
      (reason: Error) => setError(reason.message),
    );
  }, []);
  useEffect(again, [again]);
  return { found, error, again };
}
