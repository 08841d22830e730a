// A control for any setting, with what it means beside it and what holds when it is left alone.

import { NumberInput, Select, Textarea, TextInput } from "@mantine/core";
import { useEffect, useState } from "react";

import type { Catalogue } from "../state/catalogue";
import { at, type Draft } from "../state/draft";
import { type Field, shownAs, typed } from "../state/fields";
import { ListSetting } from "./ListSetting";
import { PictureSetting } from "./PictureSetting";

interface Props {
  name: string;
  draft: Draft;
  catalogue: Catalogue;
  label?: string;
  step?: number;
  lines?: number;
}

/** A setting by its dotted name; nothing if this server's requests have none of that name. */
export function Setting({ name, draft, catalogue, label, ...look }: Props) {
  const field = catalogue.fields.get(name);
  if (field === undefined) return null;
  const usual = at(catalogue.own, name) ?? field.usual;
  return (
    <FieldControl
      field={{ ...field, usual, ...(label === undefined ? {} : { label }) }}
      catalogue={catalogue}
      value={at(draft.settings, name)}
      onChange={(value) => draft.set(name, value)}
      {...look}
    />
  );
}

interface ControlProps {
  field: Field;
  catalogue: Catalogue;
  value: unknown;
  onChange: (value: unknown) => void; // undefined: left alone
  step?: number;
  lines?: number;
}

export function FieldControl({ field, catalogue, value, onChange, step, lines }: ControlProps) {
  const { name, shape } = field;
  const shared = {
    label: field.label,
    description: field.meaning,
    placeholder: shownAs(field.usual),
    "data-setting": name,
  };
  const named = namesFor(name, catalogue);
  if (shape.kind === "list")
    return <ListSetting field={field} item={shape.item} catalogue={catalogue} value={value} onChange={onChange} />;
  if (/(^|\.)(picture|pictures|depth|mask)$/.test(name))
    return <PictureSetting field={field} many={shape.kind === "words"} value={value} onChange={onChange} />;
  if (shape.kind === "choice" || shape.kind === "truth" || named !== null)
    return (
      <Select
        {...shared}
        data={shape.kind === "truth" ? ["on", "off"] : shape.kind === "choice" ? shape.choices : (named ?? [])}
        value={value === undefined || value === null ? null : shownAs(value)}
        onChange={(v) => onChange(v === null ? undefined : shape.kind === "truth" ? v === "on" : v)}
        clearable
        clearButtonProps={{ "aria-label": `Leave ${field.label} alone` }}
        searchable={(named ?? []).length > 8}
        nothingFoundMessage="None of that name"
      />
    );
  if (shape.kind === "number")
    return (
      <NumberInput
        {...shared}
        value={typeof value === "number" ? value : ""}
        onChange={(v) => onChange(typeof v === "number" ? v : undefined)}
        allowDecimal={!shape.whole}
        step={step ?? stepOf(shape.max, shape.whole)}
        {...(shape.min === undefined ? {} : { min: shape.min })}
        {...(shape.max === undefined ? {} : { max: shape.max })}
      />
    );
  if (shape.kind === "text" && lines !== undefined)
    return <Textarea {...shared} rows={lines} value={shownAs(value)} onChange={(e) => onChange(e.currentTarget.value || undefined)} />;
  return <TypedInput {...shared} shown={shownAs(value)} read={(text) => typed(shape, text)} onChange={onChange} />;
}

interface TypedProps {
  label: string;
  description: string;
  placeholder: string;
  "data-setting": string;
  shown: string;
  read: (text: string) => unknown;
  onChange: (value: unknown) => void;
}

/** A text that means something once it is whole: what is half typed stays as it is. */
function TypedInput({ shown, read, onChange, ...shared }: TypedProps) {
  const [text, setText] = useState(shown);
  useEffect(() => {
    setText((now) => (shownAs(read(now)) === shown ? now : shown));
    // only a value from elsewhere replaces what was typed
  }, [shown]);
  const wrong = text !== "" && read(text) === undefined;
  return (
    <TextInput
      {...shared}
      value={text}
      error={wrong ? "This is not understood yet." : null}
      onChange={(e) => {
        setText(e.currentTarget.value);
        onChange(read(e.currentTarget.value));
      }}
    />
  );
}

function stepOf(max: number | undefined, whole: boolean): number {
  if (whole) return 1;
  return max !== undefined && max <= 1 ? 0.05 : 0.1;
}

/** What a setting may name of this server's; null where it is no name. */
function namesFor(name: string, catalogue: Catalogue): string[] | null {
  const names = (list: { name: string }[]) => list.map((one) => one.name);
  switch (name.split(".").at(-1)) {
    case "model":
      return names(catalogue.models);
    case "vae":
      return names(catalogue.vaes);
    case "upscaler":
      return ["Lanczos", "Nearest", ...(name.startsWith("hires") ? ["Latent"] : []), ...names(catalogue.upscalers)];
    case "sampler":
      return names(catalogue.samplers);
    case "schedule":
      return catalogue.schedules;
    case "clip":
    case "vision":
      return [...names(catalogue.encoders), ...(name === "clip" ? names(catalogue.models) : [])];
    case "adapter":
      return names(catalogue.adapters);
    default:
      return null;
  }
}
