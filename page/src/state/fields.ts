// The settings that a request may have, read from its JSON schema: what each takes, what holds when
// it is left alone, and what it means in the words of the command line's help.

import type { Explained, Settings } from "../api/types";
import { at, isGroup } from "./draft";

export type Shape =
  | { kind: "number"; whole: boolean; min?: number; max?: number }
  | { kind: "choice"; choices: string[] }
  | { kind: "truth" }
  | { kind: "text" }
  | { kind: "words" } // several texts
  | { kind: "pair" } // width and height
  | { kind: "numbers"; names: string[] } // a group that is given as a whole
  | { kind: "list"; item: Field[] };

export interface Field {
  name: string; // dotted
  label: string;
  meaning: string;
  panel: string;
  usual: unknown; // what holds when it is left alone; undefined: something of the model, or nothing
  shape: Shape;
}

// chosen by the owner of the server, for its machine
export const ITS_OWN = ["device", "dtype", "engine", "offload", "batch", "look_up"];

const LABELS: { [name: string]: string } = {
  cfg_scale: "Guidance scale",
  clip: "CLIP",
  clip_skip: "CLIP skip",
  count: "Pictures",
  emphasis: "Weights",
  ema: "EMA weights",
  ensd: "ENSD",
  exact: "Same bits in any batch",
  subseed: "Variation seed",
  subseed_strength: "Variation strength",
  tile_vae: "Decode in bands",
  vae: "Autoencoder",
  zero_terminal_snr: "Zero terminal SNR",
  "hires.cfg_scale": "Second pass: guidance scale",
  "guidance.start": "Guided from",
  "guidance.end": "Guided until",
  "guidance.freeu": "FreeU: b1, b2, s1, s2",
  "mask.text": "Mask by words",
  "mask.content": "Under the mask",
  "mask.blur": "Soft edge",
  "mask.invert": "Turn the mask round",
  "mask.soft": "Grey is painted less",
};
// groups whose settings say little without the group's name
const GROUPS: { [name: string]: string } = {
  apg: "APG",
  clip_guidance: "CLIP guidance",
  hires: "Second pass",
  pag: "PAG",
  refiner: "Refiner",
  reuse: "Reuse",
  sag: "SAG",
  thresholding: "Thresholding",
  tiles: "Tiles",
  token_merging: "Token merging",
};
// where the command line has another name, or its words are for a terminal alone
const TOLD_AS: { [name: string]: string } = {
  width: "size",
  height: "size",
  "sizes.crop_left": "crop",
  "sizes.crop_top": "crop",
  "guidance.freeu": "freeu",
};
const MEANINGS: { [name: string]: string } = {
  model: "What draws.",
  width: "In pixels, in steps of 8.",
  height: "In pixels, in steps of 8.",
  "source.last_strength": "Strength of the last loop; the others lie between.",
  clip: "The CLIP that sees for a mask by words, CLIP guidance and the best of several; the model's own, else the embedded one.",
  "sizes.crop_left": "Told as the crop's left side.",
  "sizes.crop_top": "Told as the crop's top.",
  "guidance.freeu": "Four numbers, such as 1.5, 1.6, 0.9, 0.2.",
  "tiles.size": "See the picture through windows of so many pixels, such as 512x512.",
  embeddings: "Textual inversions under a word of your own; those of the server work by their names.",
  hypernetworks: "Hypernetworks in A1111's format, each with its weight.",
  references: "Pictures that self-attention looks at, too (reference_only).",
  image_prompts: "IP-Adapters, each with its picture.",
  regions: "Words for a part of the picture: left, right, top, bottom, middle, or a box of four fractions.",
};

/** All settings of a request in the order of its schema; groups are gone through. */
export function fieldsOf(schemas: Settings, explained: Map<string, Explained>, defaults: Settings): Field[] {
  const known = (name: string) => explained.get(TOLD_AS[name] ?? name);
  const leaves = (schema: Settings, place: string): Field[] =>
    Object.entries(group(schema.properties)).flatMap(([short, raw]): Field[] => {
      const name = place === "" ? short : `${place}.${short}`;
      const value = settled(group(raw), schemas);
      const inner = group(value.properties);
      const names = Object.keys(inner);
      if (names.length > 0 && (value.required as string[] | undefined)?.length !== names.length)
        return leaves(value, name);
      const shape = names.length > 0 ? { kind: "numbers" as const, names } : shapeOf(value, schemas, item);
      const told = known(name);
      const usual = at(defaults, name) ?? group(raw).default ?? undefined;
      return [
        {
          name,
          label: labelOf(name),
          meaning: MEANINGS[name] ?? plainly(told?.meaning ?? "", usual),
          panel: told?.panel ?? "",
          usual: usual ?? undefined,
          shape,
        },
      ];
    });
  const item = (schema: Settings) => leaves(schema, "").map((one) => ({ ...one, meaning: "" }));
  return leaves(group(schemas.Request), "");
}

/** What is behind a reference, and behind "or nothing". */
function settled(schema: Settings, schemas: Settings): Settings {
  const either = schema.anyOf as Settings[] | undefined;
  if (either !== undefined) return settled(either.find((one) => one.type !== "null") ?? {}, schemas);
  const name = typeof schema.$ref === "string" ? schema.$ref.split("/").at(-1) : undefined;
  return name === undefined ? schema : group(schemas[name]);
}

function shapeOf(schema: Settings, schemas: Settings, item: (schema: Settings) => Field[]): Shape {
  if (Array.isArray(schema.enum)) return { kind: "choice", choices: schema.enum as string[] };
  switch (schema.type) {
    case "boolean":
      return { kind: "truth" };
    case "integer":
    case "number": {
      const [min, max] = [schema.minimum, schema.maximum];
      return {
        kind: "number",
        whole: schema.type === "integer",
        ...(typeof min === "number" ? { min } : {}),
        ...(typeof max === "number" && Number.isSafeInteger(max) ? { max } : {}),
      };
    }
    case "array": {
      if (Array.isArray(schema.prefixItems)) return { kind: "pair" };
      const one = settled(group(schema.items), schemas);
      return one.properties === undefined ? { kind: "words" } : { kind: "list", item: item(one) };
    }
    default:
      return { kind: "text" };
  }
}

function labelOf(name: string): string {
  const known = LABELS[name];
  if (known !== undefined) return known;
  const parts = name.split(".");
  const last = spaced(parts.at(-1) ?? "");
  const before = GROUPS[parts.at(-2) ?? ""];
  return before === undefined ? `${last.charAt(0).toUpperCase()}${last.slice(1)}` : `${before}: ${last}`;
}

function spaced(name: string): string {
  return name.replace(/_/g, " ");
}

/** A help text without what is for terminals, and without the default where that is shown. */
function plainly(help: string, usual: unknown): string {
  const words = help
    .replace(/`/g, "")
    .replace(/--([a-z-]+)/g, (_, option: string) => option.replace(/-/g, " "))
    .replace(/; repeatable\.$/, ".");
  return usual === undefined ? words : words.replace(/ \[[^\]]*\]\.$/, ".");
}

function group(value: unknown): Settings {
  return isGroup(value) ? value : {};
}

/** A value as it is shown and typed. */
export function shownAs(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "boolean") return value ? "on" : "off";
  if (Array.isArray(value)) return value.join(value.every((v) => typeof v === "number") ? "x" : ", ");
  if (isGroup(value)) return Object.values(value).join(", ");
  return String(value);
}

/** What was typed into a field, or undefined if it is nothing yet. */
export function typed(shape: Shape, text: string): unknown {
  const parts = text.split(shape.kind === "pair" ? /[x×, ]+/ : /[, ]+/).filter((part) => part !== "");
  switch (shape.kind) {
    case "words":
      return parts.length > 0 ? parts : undefined;
    case "pair": {
      const sides = parts.map(Number);
      return sides.length === 2 && sides.every(Number.isInteger) ? sides : undefined;
    }
    case "numbers": {
      const values = parts.map(Number);
      if (values.length !== shape.names.length || values.some(Number.isNaN)) return undefined;
      return Object.fromEntries(shape.names.map((name, place) => [name, values[place]]));
    }
    default:
      return text === "" ? undefined : text;
  }
}
