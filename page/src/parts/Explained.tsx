// A control with what it means beside it, in the words of the command line's help.

import { Checkbox, NumberInput, Select, Textarea, TextInput } from "@mantine/core";

import type { Catalogue } from "../state/catalogue";
import { at, type Draft } from "../state/draft";

interface Props {
  name: string;
  label: string;
  draft: Draft;
  catalogue: Catalogue;
}

/** The meaning of a setting, without the words that are for terminals alone. */
export function meaningOf(catalogue: Catalogue, name: string): string {
  return catalogue.explained.get(name)?.meaning.replace(/`/g, "") ?? "";
}

function usual(catalogue: Catalogue, name: string): string {
  const value = at(catalogue.defaults, name);
  return value === null || value === undefined || value === "" ? "" : String(value);
}

export function NumberSetting(
  props: Props & { min?: number; max?: number; step?: number; whole?: boolean },
) {
  const { name, label, draft, catalogue, min, max, step, whole } = props;
  const value = at(draft.settings, name);
  return (
    <NumberInput
      label={label}
      description={meaningOf(catalogue, name)}
      placeholder={usual(catalogue, name)}
      value={typeof value === "number" ? value : ""}
      onChange={(v) => draft.set(name, typeof v === "number" ? v : undefined)}
      allowDecimal={!whole}
      {...(min === undefined ? {} : { min })}
      {...(max === undefined ? {} : { max })}
      {...(step === undefined ? {} : { step })}
    />
  );
}

export function ChoiceSetting(props: Props & { choices: string[]; none?: string }) {
  const { name, label, draft, catalogue, choices, none } = props;
  const value = at(draft.settings, name);
  return (
    <Select
      label={label}
      description={meaningOf(catalogue, name)}
      placeholder={none ?? usual(catalogue, name)}
      data={choices}
      value={typeof value === "string" ? value : null}
      onChange={(v) => draft.set(name, v ?? undefined)}
      clearable
      searchable={choices.length > 8}
    />
  );
}

export function TextSetting(props: Props & { lines?: number }) {
  const { name, label, draft, catalogue, lines } = props;
  const value = at(draft.settings, name);
  const shared = {
    label,
    description: meaningOf(catalogue, name),
    value: typeof value === "string" ? value : "",
    placeholder: usual(catalogue, name),
  };
  const keep = (text: string) => draft.set(name, text === "" ? undefined : text);
  return lines === undefined ? (
    <TextInput {...shared} onChange={(e) => keep(e.currentTarget.value)} />
  ) : (
    <Textarea {...shared} rows={lines} onChange={(e) => keep(e.currentTarget.value)} />
  );
}

export function TruthSetting({ name, label, draft, catalogue }: Props) {
  const value = at(draft.settings, name);
  return (
    <Checkbox
      label={label}
      description={meaningOf(catalogue, name)}
      checked={value === true}
      indeterminate={value === undefined && at(catalogue.defaults, name) === null}
      onChange={(e) => draft.set(name, e.currentTarget.checked ? true : undefined)}
    />
  );
}
