// The steps of a lesson: scrubbed through or played, each panel with a sentence on what it shows.

import { ActionIcon, Card, Chip, Group, SimpleGrid, Slider, Stack, Text, Title } from "@mantine/core";
import { IconPlayerPause, IconPlayerPlay } from "@tabler/icons-react";
import { type ReactNode, useEffect, useState } from "react";

import { panelAt } from "../api/client";
import type { Lesson } from "../api/types";
import { short, SigmaPlot } from "./SigmaPlot";

const BETWEEN = 450; // milliseconds from step to step when it plays
const AHEAD = 6; // steps that are asked for before they are looked at

// the slider stays in sight below the header while the panels are scrolled
const ALWAYS_SEEN = {
  position: "sticky",
  top: "var(--app-shell-header-height, 0px)",
  zIndex: 1,
  background: "var(--mantine-color-body)",
} as const;

export function Player({ lesson }: { lesson: Lesson }) {
  const last = lesson.steps.length - 1;
  const [at, setAt] = useState(0);
  const [playing, setPlaying] = useState(false);
  const [word, setWord] = useState(String(strongest(lesson)));

  useEffect(() => {
    if (!playing) return;
    const timer = setTimeout(() => (at < last ? setAt(at + 1) : setPlaying(false)), BETWEEN);
    return () => clearTimeout(timer);
  }, [playing, at, last]);

  const step = lesson.steps[at];
  useEffect(() => {
    for (const next of lesson.steps.slice(at + 1, at + 1 + AHEAD))
      for (const panel of ["latents", "predicted", "noise", ...(next.guidance === null ? [] : ["guidance"])])
        new Image().src = panelAt(lesson.picture, next.step, panel);
  }, [lesson, at]);

  if (step === undefined) return <Text c="dimmed">Nothing was drawn, so there are no steps.</Text>;
  const { sentences } = lesson;
  const share = step.shares[word];
  const shown = lesson.words[Number(word)];
  const show = (panel: string) => panelAt(lesson.picture, step.step, panel);
  return (
    <Stack>
      <Stack gap="xs" py="xs" style={ALWAYS_SEEN}>
        <Group wrap="nowrap" align="center">
          <ActionIcon
            size="lg"
            aria-label={playing ? "Pause" : "Play"}
            onClick={() => {
              if (!playing && at === last) setAt(0);
              setPlaying(!playing);
            }}
          >
            {playing ? <IconPlayerPause size={20} /> : <IconPlayerPlay size={20} />}
          </ActionIcon>
          <Slider
            flex={1}
            min={1}
            max={last + 1}
            step={1}
            value={at + 1}
            onChange={(value) => {
              setPlaying(false);
              setAt(value - 1);
            }}
            label={(value) => `step ${value}`}
            thumbLabel="Step"
            disabled={last === 0}
          />
        </Group>
        <Text role="status" aria-live={playing ? "off" : "polite"}>
          {step.sentence}
        </Text>
      </Stack>
      <SimpleGrid cols={{ base: 1, xs: 2, md: 3 }} spacing="md">
        <Panel title="Latents" figure={`sigma ${short(step.sigma)}`} sentence={sentences.latents}>
          <Shown src={show("latents")} alt={`The noisy latents at step ${step.step}`} squares />
        </Panel>
        <Panel title="Predicted picture" sentence={sentences.predicted}>
          <Shown src={show("predicted")} alt={`The predicted picture at step ${step.step}`} />
        </Panel>
        <Panel title="Predicted noise" figure={`size ${short(step.noise)}`} sentence={sentences.noise}>
          <Shown src={show("noise")} alt={`The predicted noise at step ${step.step}`} squares />
        </Panel>
        <Panel
          title="Guidance difference"
          {...(step.guidance === null ? {} : { figure: `size ${short(step.guidance)}` })}
          sentence={step.guidance === null ? sentences.unweighed : sentences.guidance}
        >
          {step.guidance === null ? null : (
            <Shown src={show("guidance")} alt={`The guidance difference at step ${step.step}`} />
          )}
        </Panel>
        <Panel
          title="Word map"
          {...(share === undefined ? {} : { figure: `share ${(100 * share).toFixed(1)} %` })}
          sentence={share === undefined ? unheard(lesson) : sentences.words}
        >
          {share === undefined ? null : (
            <Shown src={show(`word-${word}`)} alt={`Where “${shown?.word}” acted at step ${step.step}`} />
          )}
          {lesson.words.length > 0 && (
            <Chip.Group value={word} onChange={(chosen) => setWord(String(chosen))}>
              <Group gap={4} role="group" aria-label="Words">
                {lesson.words.map((one, place) => (
                  <Chip key={place} value={String(place)} size="xs">
                    {one.word}
                  </Chip>
                ))}
              </Group>
            </Chip.Group>
          )}
        </Panel>
        <Panel title="Sigma" figure={short(step.sigma)} sentence={sentences.sigma}>
          <SigmaPlot steps={lesson.steps} at={at} />
        </Panel>
      </SimpleGrid>
    </Stack>
  );
}

interface PanelProps {
  title: string;
  figure?: string;
  sentence: string | undefined;
  children: ReactNode;
}

function Panel({ title, figure, sentence, children }: PanelProps) {
  return (
    <Card withBorder p="sm">
      <Stack gap="xs">
        <Group justify="space-between" wrap="nowrap">
          <Title order={2} size="h5">
            {title}
          </Title>
          {figure !== undefined && (
            <Text size="sm" ff="monospace">
              {figure}
            </Text>
          )}
        </Group>
        {children}
        <Text size="sm" c="dimmed">
          {sentence}
        </Text>
      </Stack>
    </Card>
  );
}

/** A picture of a panel; squares: each of its pixels is one place of the latents. */
function Shown({ src, alt, squares = false }: { src: string; alt: string; squares?: boolean }) {
  return (
    <img
      src={src}
      alt={alt}
      style={{
        width: "100%",
        maxHeight: "min(45vh, 280px)",
        objectFit: "contain",
        imageRendering: squares ? "pixelated" : "auto",
        display: "block",
      }}
    />
  );
}

/** The word that was attended to most over all steps. */
function strongest(lesson: Lesson): number {
  const sums = lesson.words.map((_, place) =>
    lesson.steps.reduce((sum, step) => sum + (step.shares[place] ?? 0), 0),
  );
  return Math.max(sums.indexOf(Math.max(...sums)), 0);
}

function unheard(lesson: Lesson): string {
  return lesson.words.length === 0
    ? "The prompt has no words whose maps could be shown."
    : "In this step the network was not told this word, or was not asked anew.";
}
