// What there is to draw with, and what settings mean: asked for once, and again when asked to.

import { useCallback, useEffect, useState } from "react";

import { api } from "../api/client";
import type { Listed, Settings } from "../api/types";
import { type Field, fieldsOf, ITS_OWN } from "./fields";

export interface Catalogue {
  models: Listed[];
  model: string | null;
  loras: Listed[];
  embeddings: Listed[];
  vaes: Listed[];
  controls: Listed[];
  upscalers: Listed[];
  adapters: Listed[];
  encoders: Listed[];
  hypernetworks: Listed[];
  samplers: { name: string; meaning: string; schedule: string }[];
  schedules: string[];
  fields: Map<string, Field>; // every setting of a request, by its dotted name
  defaults: Settings;
  own: Settings; // what the chosen model is drawn with where a setting is left alone
  limits: { [name: string]: number };
}

export async function catalogue(): Promise<Catalogue> {
  const [models, loras, embeddings, vaes, controls, upscalers, adapters, encoders, hypernetworks, samplers, schedules, told, limits] =
    await Promise.all([
      api.models(),
      api.list("loras"),
      api.list("embeddings"),
      api.list("vaes"),
      api.list("controls"),
      api.list("upscalers"),
      api.list("adapters"),
      api.list("encoders"),
      api.list("hypernetworks"),
      api.samplers(),
      api.schedules(),
      api.settings(),
      api.limits(),
    ]);
  const explained = new Map(told.explained.map((one) => [one.field, one]));
  const fields = fieldsOf(told.schema, explained, told.defaults).filter(
    (one) => !ITS_OWN.includes(one.name),
  );
  return {
    models: models.models,
    model: models.default,
    loras,
    embeddings,
    vaes,
    controls,
    upscalers,
    adapters,
    encoders,
    hypernetworks,
    samplers: samplers.samplers,
    schedules: schedules.schedules.map((s) => s.name),
    fields: new Map(fields.map((one) => [one.name, one])),
    own: { ...told.own, model: models.default },
    defaults: told.defaults,
    limits: limits.limits,
  };
}

/** What there is, and what holds for the model of this name; null: the server's own. */
export function useCatalogue(model: string | null): { found: Catalogue | null; error: string | null; again: () => void } {
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
  const there = found !== null;
  useEffect(() => {
    if (!there) return;
    let wanted = true;
    api.settings(model).then(
      ({ own }) =>
        wanted && setFound((known) => (known === null ? null : { ...known, own: { ...own, model: known.model } })),
      () => undefined, // drawing with it says what is wrong
    );
    return () => {
      wanted = false;
    };
  }, [there, model]);
  return { found, error, again };
}
