// One picture with its recipe: reuse its settings, draw on it, see how it came, save it, delete it.

import { Button, Code, Group, Image, Modal, ScrollArea, Stack, Text } from "@mantine/core";
import { useEffect, useState } from "react";

import { api, pictureAt } from "../api/client";
import type { Settings } from "../api/types";

interface Props {
  picture: string | null;
  onClose: () => void;
  onReuse: (settings: Settings) => void;
  onEdit: (picture: string) => void;
  onLesson: (picture: string) => void;
  onDeleted: () => void;
}

// Chosen by the server for this machine; a request may leave them out, and other servers choose other
const ITS_OWN = ["device", "dtype", "engine", "offload", "batch", "look_up"];

export function Opened({ picture, onClose, onReuse, onEdit, onLesson, onDeleted }: Props) {
  const [settings, setSettings] = useState<Settings | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [sure, setSure] = useState(false);
  useEffect(() => {
    setSettings(null);
    setError(null);
    setSure(false);
    if (picture === null) return;
    let wanted = true;
    api.recipe(picture).then(
      (recipe) => wanted && setSettings(plain(recipe.request)),
      (reason: Error) => wanted && setError(reason.message),
    );
    return () => {
      wanted = false;
    };
  }, [picture]);

  return (
    <Modal opened={picture !== null} onClose={onClose} size="xl" title="Picture">
      {picture !== null && (
        <Stack>
          <Image src={pictureAt(picture)} alt={String(settings?.prompt ?? "")} fit="contain" mah="60vh" />
          <Group>
            <Button disabled={settings === null} onClick={() => settings !== null && onReuse(settings)}>
              Reuse these settings
            </Button>
            <Button variant="default" onClick={() => onEdit(picture)}>
              Draw on it
            </Button>
            <Button variant="default" onClick={() => onLesson(picture)}>
              Lesson
            </Button>
            <Button variant="default" component="a" href={pictureAt(picture)} download={`${picture}.png`}>
              Save
            </Button>
            <Button
              variant="light"
              color="red"
              onClick={() => {
                if (!sure) return setSure(true);
                api.remove(picture).then(onDeleted, (reason: Error) => setError(reason.message));
              }}
            >
              {sure ? "Delete for good" : "Delete"}
            </Button>
          </Group>
          {error !== null && <Text c="red">{error}</Text>}
          {settings !== null && (
            <ScrollArea.Autosize mah={260}>
              <Code block>{JSON.stringify(settings, null, 2)}</Code>
            </ScrollArea.Autosize>
          )}
        </Stack>
      )}
    </Modal>
  );
}

/** The settings of a recipe that a new request may have: without what is unset, and the server's. */
export function plain(request: Settings): Settings {
  const kept: Settings = {};
  for (const [name, value] of Object.entries(request)) {
    if (ITS_OWN.includes(name) || value === null) continue;
    if (Array.isArray(value) && value.length === 0) continue;
    if (typeof value === "object" && !Array.isArray(value)) {
      const inner = plain(value as Settings);
      if (Object.keys(inner).length > 0) kept[name] = inner;
    } else kept[name] = value;
  }
  return kept;
}
