// Finished pictures, the newest first: found by words, opened, compared, taken up again.

import { Button, Card, Checkbox, Group, Image, SimpleGrid, Stack, Text, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useCallback, useEffect, useState } from "react";

import { api, thumbnailAt } from "../api/client";
import type { Kept } from "../api/types";

interface Props {
  fresh: number; // grows when there are new pictures
  onOpen: (id: string) => void;
  onCompare: (pair: [Kept, Kept]) => void;
}

export function Gallery({ fresh, onOpen, onCompare }: Props) {
  const [words, setWords] = useState("");
  const [search] = useDebouncedValue(words, 250);
  const [pictures, setPictures] = useState<Kept[]>([]);
  const [next, setNext] = useState<string | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [chosen, setChosen] = useState<Kept[]>([]);

  const load = useCallback(
    async (before: string | null) => {
      try {
        const found = await api.gallery(search, before);
        setPictures((known) => (before === null ? found.pictures : [...known, ...found.pictures]));
        setNext(found.next);
        setError(null);
      } catch (reason) {
        setError((reason as Error).message);
      }
    },
    [search],
  );
  useEffect(() => {
    void load(null);
  }, [load, fresh]);

  const toggle = (picture: Kept) =>
    setChosen((known) =>
      known.some((k) => k.id === picture.id)
        ? known.filter((k) => k.id !== picture.id)
        : [...known.slice(-1), picture],
    );
  const [one, other] = chosen;
  return (
    <Stack>
      <Group align="end">
        <TextInput
          label="Search"
          description="words of the prompt, or a model's name"
          value={words}
          onChange={(e) => setWords(e.currentTarget.value)}
          flex={1}
        />
        <Button
          variant="default"
          disabled={one === undefined || other === undefined}
          onClick={() => one !== undefined && other !== undefined && onCompare([one, other])}
        >
          Compare two
        </Button>
      </Group>
      {pictures.length > 1 && (
        <Text size="xs" c="dimmed">
          {["Tick two pictures to compare them.", "One more to compare it with."][chosen.length] ?? "Two are ticked."}
        </Text>
      )}
      {error !== null && <Text c="var(--mantine-color-error)">{error}</Text>}
      {pictures.length === 0 && error === null && <Text c="dimmed">No picture is here.</Text>}
      <SimpleGrid cols={{ base: 2, xs: 3, sm: 4, md: 5, lg: 6 }} spacing="xs">
        {pictures.map((picture) => (
          <Card key={picture.id} p={0} withBorder>
            <Card.Section
              component="button"
              type="button"
              m={0}
              p={0}
              bd="none"
              bg="transparent"
              aria-label={`Open: ${picture.prompt}`}
              onClick={() => onOpen(picture.id)}
              style={{ cursor: "pointer" }}
            >
              <Image src={thumbnailAt(picture.id)} alt={picture.prompt} fit="cover" style={{ aspectRatio: 1 }} />
            </Card.Section>
            <Group gap={4} p={4} wrap="nowrap">
              <Checkbox
                size="xs"
                styles={{ input: { borderColor: "var(--mantine-color-dimmed)" } }}
                aria-label={`Choose to compare: ${picture.prompt}`}
                checked={chosen.some((k) => k.id === picture.id)}
                onChange={() => toggle(picture)}
              />
              <Text size="xs" truncate>
                {picture.prompt}
              </Text>
            </Group>
          </Card>
        ))}
      </SimpleGrid>
      {next !== null && (
        <Button variant="default" onClick={() => void load(next)}>
          More
        </Button>
      )}
    </Stack>
  );
}
