// The settings of a drawing. Nothing that is left alone is sent: the server's defaults hold, and
// are shown in grey.

import { Accordion, Button, Group, SimpleGrid, Stack, Textarea } from "@mantine/core";

import { ChoiceSetting, NumberSetting, TextSetting, TruthSetting } from "../parts/Explained";
import type { Catalogue } from "../state/catalogue";
import { at, type Draft } from "../state/draft";
import { Loras } from "./Loras";
import { Tokens } from "./Tokens";

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
        <Tokens text={text} settings={draft.settings} />
        <TextSetting {...shared} name="negative_prompt" label="Negative prompt" lines={1} />
        <Group>
          <Button type="submit" loading={busy} flex={1}>
            Draw
          </Button>
          <Button variant="default" onClick={() => draft.replace(text ? { prompt: text } : {})}>
            Reset settings
          </Button>
        </Group>
        <SimpleGrid cols={2}>
          <ChoiceSetting
            {...shared}
            name="model"
            label="Model"
            choices={catalogue.models.map((m) => m.name)}
            none={catalogue.model ?? ""}
          />
          <NumberSetting {...shared} name="count" label="Pictures" min={1} whole />
          <NumberSetting {...shared} name="width" label="Width" min={64} step={8} whole />
          <NumberSetting {...shared} name="height" label="Height" min={64} step={8} whole />
          <NumberSetting {...shared} name="steps" label="Steps" min={1} whole />
          <NumberSetting {...shared} name="cfg_scale" label="Guidance scale" min={0} step={0.5} />
          <NumberSetting {...shared} name="seed" label="Seed" whole />
          <ChoiceSetting
            {...shared}
            name="sampler"
            label="Sampler"
            choices={catalogue.samplers.map((s) => s.name)}
          />
        </SimpleGrid>
        <Accordion multiple variant="separated" chevronPosition="left">
          <Accordion.Item value="loras">
            <Accordion.Control>LoRAs and learned words</Accordion.Control>
            <Accordion.Panel>
              <Loras {...shared} />
            </Accordion.Panel>
          </Accordion.Item>
          <Accordion.Item value="text">
            <Accordion.Control>How the prompt is read</Accordion.Control>
            <Accordion.Panel>
              <SimpleGrid cols={2}>
                <ChoiceSetting
                  {...shared}
                  name="dialect"
                  label="Dialect"
                  choices={["a1111", "comfy", "compel", "plain"]}
                />
                <ChoiceSetting
                  {...shared}
                  name="emphasis"
                  label="Weights"
                  choices={["original", "no norm", "ignore", "none", "comfy", "compel"]}
                />
                <NumberSetting {...shared} name="clip_skip" label="CLIP skip" min={1} whole />
              </SimpleGrid>
            </Accordion.Panel>
          </Accordion.Item>
          <Accordion.Item value="sampling">
            <Accordion.Control>Sampling</Accordion.Control>
            <Accordion.Panel>
              <SimpleGrid cols={2}>
                <ChoiceSetting
                  {...shared}
                  name="schedule"
                  label="Schedule"
                  choices={catalogue.schedules}
                />
                <NumberSetting {...shared} name="sampler_options.eta" label="Eta" min={0} step={0.1} />
                <NumberSetting {...shared} name="guidance.rescale" label="Rescale" min={0} max={1} step={0.1} />
                <NumberSetting {...shared} name="guidance.start" label="Guided from" min={0} max={1} step={0.05} />
                <NumberSetting {...shared} name="guidance.end" label="Guided until" min={0} max={1} step={0.05} />
                <NumberSetting {...shared} name="subseed" label="Variation seed" whole />
                <NumberSetting
                  {...shared}
                  name="subseed_strength"
                  label="Variation strength"
                  min={0}
                  max={1}
                  step={0.05}
                />
                <TruthSetting {...shared} name="exact" label="Same bits in any batch" />
              </SimpleGrid>
            </Accordion.Panel>
          </Accordion.Item>
          <Accordion.Item value="large">
            <Accordion.Control>Large pictures</Accordion.Control>
            <Accordion.Panel>
              <SimpleGrid cols={2}>
                <NumberSetting {...shared} name="hires.scale" label="Second pass: scale" min={1} step={0.25} />
                <NumberSetting {...shared} name="hires.strength" label="Second pass: strength" min={0} max={1} step={0.05} />
                <ChoiceSetting
                  {...shared}
                  name="seamless"
                  label="Seamless"
                  choices={["none", "x", "y", "both"]}
                />
                <TruthSetting {...shared} name="tile_vae" label="Decode in bands" />
              </SimpleGrid>
            </Accordion.Panel>
          </Accordion.Item>
        </Accordion>
      </Stack>
    </form>
  );
}
