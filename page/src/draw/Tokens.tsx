// How the model reads the prompt, as one types: tokens with their weights, chunks of 75, notes.

import { Alert, Badge, Group, Stack, Text } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useEffect, useState } from "react";

import { api } from "../api/client";
import type { PromptReading, Settings, Token } from "../api/types";

interface Props {
  text: string;
  settings: Settings;
}

export function Tokens({ text, settings }: Props) {
  const [still] = useDebouncedValue(text, 250);
  const [read, setRead] = useState<PromptReading | null>(null);
  const [error, setError] = useState<string | null>(null);
  const dialect = typeof settings.dialect === "string" ? settings.dialect : "a1111";
  const model = typeof settings.model === "string" ? settings.model : null;

  useEffect(() => {
    let wanted = true;
    const more: Settings = { dialect, ...(model === null ? {} : { model }) };
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
  }, [still, dialect, model]);

  if (error !== null) return <Alert color="orange">{error}</Alert>;
  const first = read?.texts[0];
  if (first === undefined || first.tokens === 0) return null;
  const notes = [...new Set([...(read?.notes ?? []), ...first.notes])];
  return (
    <Stack gap={4} aria-label="How the prompt is read" role="group">
      {first.chunks.map((chunk, number) => (
        <Group key={number} gap={3} wrap="wrap">
          <Text size="xs" c="dimmed" miw={54}>
            {chunk.length} of 75
          </Text>
          {chunk.tokens.map((token, place) => (
            <Badge key={place} size="sm" radius="sm" variant="light" color={colourOf(token)} tt="none">
              {token.text.replace("</w>", "")}
              {token.weight === 1 ? "" : ` ×${Number(token.weight.toFixed(3))}`}
            </Badge>
          ))}
        </Group>
      ))}
      {notes.map((note) => (
        <Text key={note} size="xs" c="orange">
          {note}
        </Text>
      ))}
    </Stack>
  );
}

function colourOf(token: Token): string {
  if (token.ids.length > 1) return "grape";
  if (token.weight > 1) return "red";
  return token.weight < 1 ? "blue" : "gray";
}
