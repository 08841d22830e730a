// How a picture was drawn: its words, what matters most of its settings, and all of them on demand.

import { Code, ScrollArea, Stack, Text } from "@mantine/core";

import type { Settings } from "../api/types";
import { isGroup } from "../state/draft";
import { ITS_OWN } from "../state/fields";

export function Told({ settings }: { settings: Settings }) {
  const { prompt, negative_prompt, steps, sampler, schedule, cfg_scale, seed, width, height, model } = settings;
  const facts = [
    typeof width === "number" && typeof height === "number" ? `${width} × ${height}` : null,
    steps === undefined ? null : `${String(steps)} steps`,
    [sampler, schedule].filter((one) => typeof one === "string" && one !== "automatic").join(" "),
    cfg_scale === undefined ? null : `guidance ${String(cfg_scale)}`,
    seed === undefined || seed === null ? null : `seed ${String(seed)}`,
    typeof model === "string" ? model : null,
  ].filter((one): one is string => one !== null && one !== "");
  return (
    <Stack gap={4}>
      {typeof prompt === "string" && prompt !== "" && <Text>{prompt}</Text>}
      {typeof negative_prompt === "string" && negative_prompt !== "" && (
        <Text size="sm">Not: {negative_prompt}</Text>
      )}
      <Text size="sm" c="dimmed">
        {facts.join(" · ")}
      </Text>
      <details>
        <summary>All settings</summary>
        <ScrollArea.Autosize mah={260} viewportProps={{ tabIndex: 0 }}>
          <Code block>{JSON.stringify(plain(settings), null, 2)}</Code>
        </ScrollArea.Autosize>
      </details>
    </Stack>
  );
}

// a model may have its own of these, so that the usual value is a choice like any other
const OF_MODELS = ["steps", "sampler", "schedule", "cfg_scale", "width", "height"];

/** The settings of a recipe that a new request may have: without what is unset, the server's, and,
 * where the defaults are given, what holds anyway. */
export function plain(request: Settings, defaults: Settings = {}, inner = false): Settings {
  const kept: Settings = {};
  for (const [name, value] of Object.entries(request)) {
    if (ITS_OWN.includes(name) || value === null) continue;
    if (Array.isArray(value) && value.length === 0) continue;
    const usual = defaults[name];
    if (isGroup(value)) {
      // a group that is off by default is on by being there, whatever it holds
      const group = plain(value, isGroup(usual) ? usual : {}, true);
      if (Object.keys(group).length > 0) kept[name] = group;
    } else if ((!inner && OF_MODELS.includes(name)) || JSON.stringify(usual) !== JSON.stringify(value)) kept[name] = value;
  }
  return kept;
}
