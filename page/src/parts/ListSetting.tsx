// A setting of several parts alike, such as regions: each with its own settings, added and left out.

import { ActionIcon, Button, Card, Group, Select, SimpleGrid, Stack, Text } from "@mantine/core";
import { IconTrash } from "@tabler/icons-react";

import type { Settings } from "../api/types";
import type { Catalogue } from "../state/catalogue";
import { put } from "../state/draft";
import type { Field } from "../state/fields";
import { FieldControl } from "./Setting";

interface Props {
  field: Field;
  item: Field[];
  catalogue: Catalogue;
  value: unknown;
  onChange: (value: unknown) => void;
}

export function ListSetting({ field, item, catalogue, value, onChange }: Props) {
  const parts = Array.isArray(value) ? (value as Settings[]) : [];
  const keep = (next: Settings[]) => onChange(next.length > 0 ? next : undefined);
  const files = { embeddings: catalogue.embeddings, hypernetworks: catalogue.hypernetworks }[field.name];
  const add = (first: Settings) => keep([...parts, first]);
  return (
    <Stack gap="xs" role="group" aria-label={field.label} data-setting={field.name} style={{ gridColumn: "1 / -1" }}>
      <Text size="sm" fw={500}>
        {field.label}
      </Text>
      <Text size="xs" c="dimmed">
        {field.meaning}
      </Text>
      {parts.map((part, place) => (
        <Card key={place} withBorder p="xs">
          <Group justify="space-between" mb={4}>
            <Text size="sm">{typeof part.file === "string" ? part.file : `${field.label}, number ${place + 1}`}</Text>
            <ActionIcon
              variant="subtle"
              color="red"
              aria-label={`Leave out ${field.label}, number ${place + 1}`}
              onClick={() => keep(parts.filter((_, k) => k !== place))}
            >
              <IconTrash size={16} />
            </ActionIcon>
          </Group>
          <SimpleGrid cols={2}>
            {item
              .filter((inner) => inner.name !== "file" && inner.name !== "tag")
              .map((inner) => (
                <FieldControl
                  key={inner.name}
                  field={inner}
                  catalogue={catalogue}
                  value={part[inner.name]}
                  onChange={(v) => keep(parts.map((p, k) => (k === place ? put(p, inner.name, v) : p)))}
                />
              ))}
          </SimpleGrid>
        </Card>
      ))}
      {files === undefined ? (
        <Group>
          <Button variant="default" size="compact-sm" onClick={() => add({})}>
            Add to {field.label.toLowerCase()}
          </Button>
        </Group>
      ) : files.length === 0 ? (
        <Text size="xs" c="dimmed">
          There are none on this server.
        </Text>
      ) : (
        <Select
          label={`Add to ${field.label.toLowerCase()}`}
          data={files.map((one) => one.name)}
          value={null}
          searchable
          onChange={(file) => file !== null && add({ file })}
        />
      )}
    </Stack>
  );
}
