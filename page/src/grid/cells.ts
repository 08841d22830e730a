// The cells of a grid of up to three axes.

import type { Settings } from "../api/types";
import { put } from "../state/draft";
import { type Field, typed } from "../state/fields";

export interface Axis {
  field: string | null; // a setting's dotted name; null: no axis
  values: string;
}

export interface Cell {
  at: string[]; // a value for each axis: row, column, page
  job: string | null;
  error: string | null;
}

export const AXES: Axis[] = [
  { field: "steps", values: "4, 8, 16" },
  { field: "cfg_scale", values: "1, 3, 7" },
  { field: null, values: "" },
];
export const WORDS = "words of the prompt"; // the first value is what the others stand in place of

/** The values of an axis; a comma within quotation marks belongs to its value. */
export function valuesOf(axis: Axis | undefined): string[] {
  if (axis === undefined || axis.field === null) return [];
  const found = axis.values.match(/"[^"]*"|[^,]+/g) ?? [];
  return found.map((v) => v.trim().replace(/^"(.*)"$/, "$1")).filter((v) => v !== "");
}

/** Every row with every column, on every page. */
export function placesOf(axes: Axis[]): string[][] {
  return axes
    .filter((axis) => axis.field !== null)
    .reduce<string[][]>(
      (places, axis) => valuesOf(axis).flatMap((value) => places.map((place) => [...place, value])),
      [[]],
    );
}

/** The settings of a cell. */
export function settingsOf(base: Settings, axes: Axis[], place: string[], fields: Map<string, Field>): Settings {
  return axes
    .filter((axis) => axis.field !== null)
    .reduce((settings, axis, k) => {
      const value = place[k] ?? "";
      const field = axis.field ?? "";
      if (field === WORDS) {
        const words = valuesOf(axis)[0] ?? "";
        return put(settings, "prompt", String(settings.prompt ?? "").replaceAll(words, value));
      }
      return put(settings, field, valueOf(fields.get(field), value));
    }, base);
}

/** What a text stands for in a setting; what is not understood goes as it is, and is refused. */
function valueOf(field: Field | undefined, text: string): unknown {
  if (field === undefined) return text;
  switch (field.shape.kind) {
    case "number":
      return Number.isNaN(Number(text)) ? text : Number(text);
    case "truth":
      return /^(on|true|yes)$/i.test(text) ? true : /^(off|false|no)$/i.test(text) ? false : text;
    default:
      return typed(field.shape, text) ?? text;
  }
}
