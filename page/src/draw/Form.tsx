// The settings of a drawing. Nothing that is left alone is sent: the server's defaults hold, and
// are shown in grey.

import { Button, Group, SimpleGrid, Stack, Textarea } from "@mantine/core";

import { Setting } from "../parts/Setting";
import type { Catalogue } from "../state/catalogue";
import { at, type Draft } from "../state/draft";
import { Panels } from "./Panels";
import { Tokens } from "./Tokens";

const MAIN = ["model", "count", "width", "height", "steps", "cfg_scale", "seed", "sampler"];
const STARTS = ["source", "mask", "extend", "image_cfg_scale", "depth", "noise_level"]; // need a picture

/** What has its place above, or on the tab of pictures that are drawn on. */
function elsewhere(name: string): boolean {
  const first = name.split(".")[0] ?? "";
  return [...MAIN, "prompt", "negative_prompt", "loras", "controls"].includes(name) || STARTS.includes(first);
}

interface Props {
  draft: Draft;
  catalogue: Catalogue;
  busy: boolean;
  onDraw: () => void;
}

export function Form({ draft, catalogue, busy, onDraw }: Props) {
  const shared = { draft, catalogue };
  const prompt = at(draft.settings, "prompt");
  const text = typeof prompt === "string" ? prompt : "";
  const unwanted = at(draft.settings, "negative_prompt");
  const negative = typeof unwanted === "string" ? unwanted : "";
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        onDraw();
      }}
    >
      <Stack gap="sm">
        <Textarea
          label="Prompt"
          placeholder="a red apple on a blue background"
          description="What to draw. Control and Enter draws it."
          autosize
          minRows={2}
          maxRows={10}
          value={text}
          onChange={(e) => draft.set("prompt", e.currentTarget.value || undefined)}
          onKeyDown={(e) => {
            if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
              e.preventDefault();
              onDraw();
            }
          }}
        />
        <Tokens
          text={text}
          settings={draft.settings}
          onDialect={(dialect) => draft.set("dialect", dialect)}
        />
        <Setting {...shared} name="negative_prompt" lines={1} />
        <Tokens text={negative} settings={draft.settings} negative />
        <Group>
          <Button type="submit" loading={busy} flex={1}>
            Draw
          </Button>
          <Button variant="default" onClick={() => draft.replace(text ? { prompt: text } : {})}>
            Reset settings
          </Button>
        </Group>
        <SimpleGrid cols={2} className="settings">
          {MAIN.map((name) => (
            <Setting key={name} {...shared} name={name} />
          ))}
        </SimpleGrid>
        <Panels {...shared} without={elsewhere} loras />
      </Stack>
    </form>
  );
}
