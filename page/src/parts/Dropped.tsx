// A picture dropped anywhere: what it tells of how it was drawn, and what to do with it.

import { Alert, Button, Group, Image, Modal, Overlay, Stack, Text, Title } from "@mantine/core";
import { useEffect, useState } from "react";

import { api, pictureAt } from "../api/client";
import type { Inspection, Settings } from "../api/types";
import { plain, Told } from "./Told";

interface Props {
  defaults: Settings;
  onReuse: (settings: Settings) => void;
  onEdit: (picture: string) => void;
  onTrouble: (message: string) => void;
}

export function Dropped({ defaults, onReuse, onEdit, onTrouble }: Props) {
  const [over, setOver] = useState(false);
  const [found, setFound] = useState<Inspection | null>(null);

  useEffect(() => {
    const holdsFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const drag = (event: DragEvent) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const leave = (event: DragEvent) => {
      if (event.relatedTarget === null) setOver(false);
    };
    const drop = (event: DragEvent) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      setOver(false);
      const file = event.dataTransfer?.files[0];
      if (file !== undefined)
        api.inspect(file).then(setFound, (reason: Error) => onTrouble(reason.message));
    };
    window.addEventListener("dragover", drag);
    window.addEventListener("dragleave", leave);
    window.addEventListener("drop", drop);
    return () => {
      window.removeEventListener("dragover", drag);
      window.removeEventListener("dragleave", leave);
      window.removeEventListener("drop", drop);
    };
  }, [onTrouble]);

  return (
    <>
      {over && (
        <Overlay fixed center zIndex={400}>
          <Title order={2} c="white">
            Drop a picture to read its recipe
          </Title>
        </Overlay>
      )}
      <Modal closeButtonProps={{ "aria-label": "Close" }} opened={found !== null} onClose={() => setFound(null)} size="xl" title="A picture">
        {found !== null && (
          <Stack>
            <Image src={pictureAt(found.id)} alt="The dropped picture" mah="45vh" fit="contain" />
            <Text>{told(found)}</Text>
            {found.notes.map((note) => (
              <Alert key={note} color="orange" py={6}>
                {note}
              </Alert>
            ))}
            <Group>
              {found.request !== null && (
                <Button
                  onClick={() => {
                    onReuse(plain(found.request ?? {}, defaults));
                    setFound(null);
                  }}
                >
                  Reuse these settings
                </Button>
              )}
              <Button
                variant="default"
                onClick={() => {
                  onEdit(found.id);
                  setFound(null);
                }}
              >
                Draw on it
              </Button>
            </Group>
            {found.request !== null && <Told settings={found.request} />}
          </Stack>
        )}
      </Modal>
    </>
  );
}

function told(found: Inspection): string {
  const size = `${found.width} × ${found.height}`;
  if (found.source === null) return `${size}. It does not tell how it was made.`;
  const pixels =
    found.pixels_match === null
      ? ""
      : found.pixels_match
        ? " Its pixels are those that its recipe names."
        : " Its pixels are not those that its recipe names: it was edited, or saved with loss.";
  return `${size}. It carries settings of ${found.source}.${pixels}`;
}
