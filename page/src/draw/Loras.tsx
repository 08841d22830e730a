// The LoRAs that are on, each with its weight, and the learned words there are.

import { ActionIcon, Badge, Group, NumberInput, Select, Stack, Text } from "@mantine/core";
import { IconTrash } from "@tabler/icons-react";

import type { Catalogue } from "../state/catalogue";
import { at, type Draft } from "../state/draft";

interface Worn {
  file: string;
  weight?: number;
}

export function Loras({ draft, catalogue }: { draft: Draft; catalogue: Catalogue }) {
  const given = at(draft.settings, "loras");
  const worn = Array.isArray(given) ? (given as Worn[]) : [];
  const keep = (next: Worn[]) => draft.set("loras", next.length > 0 ? next : undefined);
  const prompt = at(draft.settings, "prompt");
  const text = typeof prompt === "string" ? prompt : "";
  return (
    <Stack gap="xs">
      {catalogue.loras.length === 0 && (
        <Text size="sm" c="dimmed">
          There are no LoRAs: put files into a folder loras beside the models.
        </Text>
      )}
      {catalogue.loras.length > 0 && (
        <Select
          label="Put on a LoRA"
          data={catalogue.loras.map((l) => l.name).filter((n) => !worn.some((w) => w.file === n))}
          value={null}
          searchable
          onChange={(name) => name !== null && keep([...worn, { file: name, weight: 1 }])}
        />
      )}
      {worn.map((lora, place) => (
        <Group key={lora.file} wrap="nowrap" align="end">
          <NumberInput
            label={lora.file}
            description="weight"
            step={0.05}
            value={lora.weight ?? 1}
            onChange={(v) =>
              keep(worn.map((w, i) => (i === place && typeof v === "number" ? { ...w, weight: v } : w)))
            }
            flex={1}
          />
          <ActionIcon
            variant="subtle"
            color="red"
            size="lg"
            aria-label={`Take off ${lora.file}`}
            onClick={() => keep(worn.filter((_, i) => i !== place))}
          >
            <IconTrash size={18} />
          </ActionIcon>
        </Group>
      ))}
      {catalogue.embeddings.length > 0 && (
        <Group gap={6} role="group" aria-label="Learned words">
          {catalogue.embeddings.map((word) => (
            <Badge
              key={word.name}
              component="button"
              type="button"
              variant="outline"
              tt="none"
              style={{ cursor: "pointer" }}
              onClick={() => draft.set("prompt", text === "" ? word.name : `${text}, ${word.name}`)}
            >
              {word.name}
            </Badge>
          ))}
        </Group>
      )}
    </Stack>
  );
}
