// Networks that make a drawing follow a map: each with its picture, its preprocessor and what that
// makes of the picture.

import { ActionIcon, Alert, Button, Card, FileButton, Group, Image, NumberInput, Select, Stack, Text } from "@mantine/core";
import { IconTrash } from "@tabler/icons-react";
import { useEffect, useState } from "react";

import { api, pictureAt } from "../api/client";
import type { Preprocessor } from "../api/types";
import type { Catalogue } from "../state/catalogue";
import { at, type Draft } from "../state/draft";

interface Control {
  net: string;
  picture?: string;
  preprocessor?: string;
  scale?: number;
}

interface Props {
  draft: Draft;
  catalogue: Catalogue;
  onTrouble: (message: string) => void;
}

export function Controls({ draft, catalogue, onTrouble }: Props) {
  const given = at(draft.settings, "controls");
  const controls = Array.isArray(given) ? (given as Control[]) : [];
  const keep = (next: Control[]) => draft.set("controls", next.length > 0 ? next : undefined);
  const [known, setKnown] = useState<Preprocessor[]>([]);
  useEffect(() => {
    api.preprocessors().then(setKnown, (reason: Error) => onTrouble(reason.message));
  }, [onTrouble]);
  const change = (place: number, values: Partial<Control>) =>
    keep(controls.map((c, k) => (k === place ? { ...c, ...values } : c)));

  return (
    <Stack gap="xs" role="group" aria-label="Control networks">
      <Text fw={500} size="sm">
        What it follows
      </Text>
      {catalogue.controls.length === 0 ? (
        <Text size="sm" c="dimmed">
          There are no control networks on this server.
        </Text>
      ) : (
        <Select
          label="Add a control network"
          data={catalogue.controls.map((c) => c.name)}
          value={null}
          searchable
          onChange={(net) => net !== null && keep([...controls, { net }])}
        />
      )}
      {controls.map((control, place) => (
        <Card key={place} withBorder p="xs">
          <Stack gap="xs">
            <Group justify="space-between">
              <Text size="sm">{control.net}</Text>
              <ActionIcon
                variant="subtle"
                color="red"
                aria-label={`Leave out ${control.net}`}
                onClick={() => keep(controls.filter((_, k) => k !== place))}
              >
                <IconTrash size={16} />
              </ActionIcon>
            </Group>
            <Group align="end">
              <FileButton
                accept="image/png,image/jpeg,image/webp"
                onChange={(file) => {
                  if (file === null) return;
                  api.upload(file).then(
                    (upload) => change(place, { picture: upload.id }),
                    (reason: Error) => onTrouble(reason.message),
                  );
                }}
              >
                {(props) => (
                  <Button variant="default" {...props}>
                    {control.picture === undefined ? "Its picture" : "Another picture"}
                  </Button>
                )}
              </FileButton>
              <Select
                label="Preprocessor"
                description="what makes the map of the picture"
                placeholder="the network's own"
                data={known.map((p) => ({ value: p.name, label: p.label }))}
                value={control.preprocessor ?? null}
                clearable
                searchable
                onChange={(name) => {
                  const { preprocessor: _, ...rest } = control;
                  keep(
                    controls.map((c, k) =>
                      k === place ? (name === null ? rest : { ...rest, preprocessor: name }) : c,
                    ),
                  );
                }}
                flex={1}
              />
              <NumberInput
                label="Scale"
                step={0.1}
                min={-2}
                max={4}
                value={control.scale ?? 1}
                onChange={(v) => typeof v === "number" && change(place, { scale: v })}
                w={90}
              />
            </Group>
            {control.picture !== undefined && (
              <MapOf picture={control.picture} preprocessor={control.preprocessor ?? "none"} />
            )}
          </Stack>
        </Card>
      ))}
    </Stack>
  );
}

/** A picture and its map, side by side. */
function MapOf({ picture, preprocessor }: { picture: string; preprocessor: string }) {
  const [map, setMap] = useState<string | null>(null);
  const [error, setError] = useState<string | null>(null);
  useEffect(() => {
    let wanted = true;
    let made: string | null = null;
    api.preprocess(picture, preprocessor).then(
      (blob) => {
        if (!wanted) return;
        made = URL.createObjectURL(blob);
        setMap(made);
        setError(null);
      },
      (reason: Error) => wanted && setError(reason.message),
    );
    return () => {
      wanted = false;
      if (made !== null) URL.revokeObjectURL(made);
    };
  }, [picture, preprocessor]);
  return (
    <Group grow align="start">
      <Image src={pictureAt(picture)} alt="The picture that is followed" mah={180} fit="contain" />
      {error === null ? (
        map !== null && <Image src={map} alt="Its map" mah={180} fit="contain" />
      ) : (
        <Alert color="orange">{error}</Alert>
      )}
    </Group>
  );
}
