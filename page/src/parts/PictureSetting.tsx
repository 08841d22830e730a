// A setting that is a picture: sent to the server when it is chosen, and named by what it is there.

import { Button, FileButton, Group, Image, Stack, Text } from "@mantine/core";
import { useState } from "react";

import { api, pictureAt } from "../api/client";
import type { Field } from "../state/fields";

interface Props {
  field: Field;
  many: boolean; // whether the setting holds several; one is given here
  value: unknown;
  onChange: (value: unknown) => void;
}

export function PictureSetting({ field, many, value, onChange }: Props) {
  const [error, setError] = useState<string | null>(null);
  const ids = Array.isArray(value) ? (value as string[]) : typeof value === "string" ? [value] : [];
  const take = (file: File | null) => {
    if (file === null) return;
    setError(null);
    api.upload(file).then(
      (upload) => onChange(many ? [...ids, upload.id] : upload.id),
      (reason: Error) => setError(reason.message),
    );
  };
  return (
    <Stack gap={4} data-setting={field.name}>
      <Text size="sm" fw={500}>
        {field.label}
      </Text>
      {field.meaning !== "" && (
        <Text size="xs" c="dimmed">
          {field.meaning}
        </Text>
      )}
      <Group gap="xs">
        {ids.map((id) => (
          <Image key={id} src={pictureAt(id)} alt={`${field.label}: the chosen picture`} h={44} w="auto" radius="sm" />
        ))}
        <FileButton accept="image/png,image/jpeg,image/webp" onChange={take}>
          {(props) => (
            <Button variant="default" size="compact-sm" aria-label={`Choose for ${field.label}`} {...props}>
              {many && ids.length > 0 ? "Add" : "Choose"}
            </Button>
          )}
        </FileButton>
        {ids.length > 0 && (
          <Button variant="subtle" size="compact-sm" aria-label={`Leave out ${field.label}`} onClick={() => onChange(undefined)}>
            Leave out
          </Button>
        )}
      </Group>
      {error !== null && (
        <Text size="xs" c="var(--mantine-color-error)">
          {error}
        </Text>
      )}
    </Stack>
  );
}
