// One picture with its recipe: reuse its settings, draw on it, see how it came, save it, delete it.

import { Button, Group, Image, Modal, Stack, Text } from "@mantine/core";
import { useEffect, useState } from "react";

import { api, pictureAt } from "../api/client";
import type { Settings } from "../api/types";
import { plain, Told } from "../parts/Told";

interface Props {
  defaults: Settings;
  picture: string | null;
  onClose: () => void;
  onReuse: (settings: Settings) => void;
  onEdit: (picture: string) => void;
  onLesson: (picture: string) => void;
  onDeleted: () => void;
}

export function Opened({ picture, defaults, onClose, onReuse, onEdit, onLesson, onDeleted }: Props) {
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
      (recipe) => wanted && setSettings(recipe.request),
      (reason: Error) => wanted && setError(reason.message),
    );
    return () => {
      wanted = false;
    };
  }, [picture]);

  return (
    <Modal closeButtonProps={{ "aria-label": "Close" }} opened={picture !== null} onClose={onClose} size="xl" title="Picture">
      {picture !== null && (
        <Stack>
          <Image src={pictureAt(picture)} alt={String(settings?.prompt ?? "")} fit="contain" mah="60vh" />
          <Group>
            <Button disabled={settings === null} onClick={() => settings !== null && onReuse(plain(settings, defaults))}>
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
          {error !== null && <Text c="var(--mantine-color-error)">{error}</Text>}
          {settings !== null && <Told settings={settings} />}
        </Stack>
      )}
    </Modal>
  );
}
