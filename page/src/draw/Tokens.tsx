// How the model reads the prompt, as one types: its parts and when they hold, tokens with their
// weights, chunks of 75, what is cut, and what looks like another program's way of writing.

import { Alert, Badge, Button, Group, Stack, Text } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useEffect, useState } from "react";

import { api } from "../api/client";
import type { PromptReading, Settings, Token } from "../api/types";

interface Props {
  text: string;
  settings: Settings;
  negative?: boolean;
  onDialect?: (dialect: string) => void;
}

const OTHERS = { compel: "compel", ComfyUI: "comfy", A1111: "a1111" }; // as the notes call them

export function Tokens({ text, settings, negative = false, onDialect }: Props) {
  const [still] = useDebouncedValue(text, 250);
  const [read, setRead] = useState<PromptReading | null>(null);
  const [error, setError] = useState<string | null>(null);
  const dialect = typeof settings.dialect === "string" ? settings.dialect : "a1111";
  const emphasis = typeof settings.emphasis === "string" ? settings.emphasis : "original";
  const model = typeof settings.model === "string" ? settings.model : null;
  const steps = typeof settings.steps === "number" ? settings.steps : 20;

  useEffect(() => {
    if (still.trim() === "") {
      setRead(null);
      setError(null);
      return;
    }
    let wanted = true;
    const more: Settings = { dialect, emphasis, steps, negative, ...(model === null ? {} : { model }) };
    api.prompt(still, more).then(
      (found) => {
        if (!wanted) return;
        setRead(found);
        setError(null);
      },
      (reason: Error) => wanted && setError(reason.message),
    );
    return () => {
      wanted = false;
    };
  }, [still, dialect, emphasis, steps, negative, model]);

  if (error !== null) return <Alert color="orange">{error}</Alert>;
  if (read === null) return null;
  const notes = [...new Set([...read.notes, ...read.texts.flatMap((one) => one.notes)])];
  const other = Object.entries(OTHERS).find(
    ([name, value]) => value !== dialect && notes.some((note) => note.includes(`looks like ${name}'s`)),
  );
  const times = read.parts.flatMap((part) => part.timeline.map((time) => ({ ...time, weight: part.weight })));
  return (
    <Stack gap={4} aria-label={negative ? "How the negative prompt is read" : "How the prompt is read"} role="group">
      {read.texts.map((one, place) => {
        const when = times.length > 1 ? times.filter((time) => time.text === one.text) : [];
        return (
          <Stack key={place} gap={3}>
            {when.length > 0 && <Text size="xs">{when.map(told).join("; ")}:</Text>}
            {one.chunks.map((chunk, number) => (
              <Group key={number} gap={3} wrap="wrap">
                <Text size="xs" c="dimmed" miw={54}>
                  {chunk.length} of 75
                </Text>
                {chunk.tokens.map((token, at) => (
                  <Badge key={at} size="sm" radius="sm" variant="light" color={colourOf(token)} tt="none">
                    {token.text.replace("</w>", "")}
                    {token.weight === 1 ? "" : ` ×${Number(token.weight.toFixed(3))}`}
                  </Badge>
                ))}
              </Group>
            ))}
          </Stack>
        );
      })}
      {read.networks.length > 0 && (
        <Text size="xs">
          {read.networks.map((one) => `${one.kind} ${one.name}`).join(", ")}: put on by a tag of the prompt
        </Text>
      )}
      {notes.map((note) => (
        <Text key={note} size="xs" c="var(--mantine-color-hint)">
          {note}
        </Text>
      ))}
      {other !== undefined && onDialect !== undefined && (
        <Group>
          <Button variant="default" size="compact-xs" onClick={() => onDialect(other[1])}>
            Read it as {other[0]} does
          </Button>
        </Group>
      )}
    </Stack>
  );
}

function told(time: { first: number; last: number; weight: number }): string {
  const weight = time.weight === 1 ? "" : `, weight ${time.weight}`;
  return `steps ${time.first} to ${time.last}${weight}`;
}

function colourOf(token: Token): string {
  if (token.ids.length > 1) return "grape";
  if (token.weight > 1) return "red";
  return token.weight < 1 ? "blue" : "gray";
}
