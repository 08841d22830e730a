// One setting along the rows, one along the columns, one from page to page: a job a cell, each with a
// recipe of its own.

import { Alert, Button, Card, Center, Group, Image, Loader, Select, Stack, Table, Text, TextInput, Title } from "@mantine/core";
import { useEffect, useState } from "react";

import { api, thumbnailAt } from "../api/client";
import type { Job, Settings } from "../api/types";
import type { Catalogue } from "../state/catalogue";
import { type Draft, put } from "../state/draft";
import type { Grid } from "../state/grid";
import { type Followed, isOver } from "../state/jobs";
import { type Cell, placesOf, settingsOf, valuesOf, WORDS } from "./cells";

interface Props {
  draft: Draft;
  catalogue: Catalogue;
  jobs: Followed[];
  grid: Grid;
  onGrid: (change: Partial<Grid>) => void;
  submit: (settings: Settings) => Promise<Followed>;
  adopt: (job: Job) => Followed;
  onCancel: (job: string) => void;
  onOpen: (picture: string) => void;
}

const NAMES = ["Rows", "Columns", "Pages"];
const FIRST = ["prompt", WORDS, "seed", "steps", "cfg_scale", "sampler", "schedule", "model"];

export function GridTab(props: Props) {
  const { draft, catalogue, jobs, grid, onGrid, submit, adopt, onCancel, onOpen } = props;
  const { axes, drawn, cells } = grid;
  const [gone, setGone] = useState<ReadonlySet<string>>(new Set()); // jobs
  const [trouble, setTrouble] = useState<string | null>(null);
  const most = catalogue.limits.owner_queue ?? 64;
  const fields = [...catalogue.fields.values()]
    .filter((one) => one.shape.kind !== "list" && one.name !== "count" && !/^(source|mask|extend|depth)/.test(one.name))
    .map((one) => one.name);
  const choices = [...new Set([...FIRST, ...fields])];

  // jobs of a grid that was drawn long ago, or before a reload
  useEffect(() => {
    for (const cell of cells) {
      if (cell.job === null || jobs.some((job) => job.id === cell.job)) continue;
      const id = cell.job;
      api.job(id).then(adopt, () => setGone((known) => new Set([...known, id])));
    }
    // once: what comes later is known as it comes
  }, []);

  const draw = async () => {
    setTrouble(null);
    const places = placesOf(axes);
    if (places.length === 0 || places.length > most) {
      setTrouble(`A grid has 1 to ${most} cells; these are ${places.length}.`);
      return;
    }
    // all cells share a seed, so that only what the axes say differs
    const seed = draft.settings.seed ?? Math.floor(Math.random() * 2 ** 32);
    const base = put(put({ prompt: "", ...draft.settings }, "seed", seed), "count", undefined);
    const made: Cell[] = places.map((at) => ({ at, job: null, error: null }));
    onGrid({ cells: [...made], drawn: axes });
    for (const [place, cell] of made.entries()) {
      try {
        const job = await submit(settingsOf(base, axes, cell.at, catalogue.fields));
        made[place] = { ...cell, job: job.id };
      } catch (reason) {
        made[place] = { ...cell, error: (reason as Error).message };
      }
      onGrid({ cells: [...made] });
    }
  };

  const sides = axes.filter((axis) => axis.field !== null).map((axis) => valuesOf(axis).length);
  const waiting = cells.flatMap((cell) => jobs.filter((job) => job.id === cell.job && !isOver(job)));
  const pages = [...new Set(cells.map((cell) => cell.at[2] ?? ""))];
  return (
    <Stack>
      <Text size="sm" c="dimmed">
        The prompt and all other settings are those of the first tab. Values have commas between them; of
        “{WORDS}” the first is found in the prompt, and each stands there in its turn.
      </Text>
      <Group align="end">
        {axes.map((axis, place) => (
          <Group key={place} align="end" wrap="nowrap" gap={6}>
            <Select
              label={NAMES[place]}
              placeholder="none"
              data={choices}
              searchable
              clearable={place === 2}
              clearButtonProps={{ "aria-label": "No pages" }}
              value={axis.field}
              onChange={(field) =>
                (field !== null || place === 2) &&
                onGrid({ axes: axes.map((one, k) => (k === place ? { ...one, field } : one)) })
              }
              w={150}
            />
            <TextInput
              label="Values"
              value={axis.values}
              disabled={axis.field === null}
              onChange={(e) => {
                const values = e.currentTarget.value;
                onGrid({ axes: axes.map((one, k) => (k === place ? { ...one, values } : one)) });
              }}
              w={150}
            />
          </Group>
        ))}
        <Button onClick={() => void draw()}>Draw {sides.join(" × ")}</Button>
        {waiting.length > 0 && (
          <Button variant="light" color="red" onClick={() => waiting.forEach((job) => onCancel(job.id))}>
            Cancel the other {waiting.length}
          </Button>
        )}
      </Group>
      {trouble !== null && <Alert color="orange">{trouble}</Alert>}
      {cells.length === 0 && (
        <Center mih={200}>
          <Text c="dimmed">Each cell is a picture with a recipe of its own: choose it, and reuse its settings.</Text>
        </Center>
      )}
      {cells.length > 0 && (
        <Group align="start" gap="lg">
        {pages.map((page) => (
          <Stack key={page} gap={6} maw="100%">
            {page !== "" && (
              <Title order={2} size="h5">
                {drawn[2]?.field}: {page}
              </Title>
            )}
            <Page
              label={page}
              rows={drawn[0]?.field ?? ""}
              columns={drawn[1]?.field ?? ""}
              cells={cells
                .filter((cell) => (cell.at[2] ?? "") === page)
                .map((cell) =>
                  gone.has(cell.job ?? "") ? { ...cell, error: "not on the server any more" } : cell,
                )}
              jobs={jobs}
              onOpen={onOpen}
            />
          </Stack>
        ))}
        </Group>
      )}
    </Stack>
  );
}

interface PageProps {
  label: string;
  rows: string;
  columns: string;
  cells: Cell[];
  jobs: Followed[];
  onOpen: (picture: string) => void;
}

function Page({ label, rows, columns, cells, jobs, onOpen }: PageProps) {
  const heads = [...new Set(cells.map((cell) => cell.at[1] ?? ""))];
  const lines = [...new Set(cells.map((cell) => cell.at[0] ?? ""))];
  return (
    <Table.ScrollContainer minWidth={300} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
      <Table withTableBorder withColumnBorders w="auto" aria-label={`Grid ${label}`.trim()}>
        <Table.Thead>
          <Table.Tr>
            <Table.Th>
              {rows} \ {columns}
            </Table.Th>
            {heads.map((head) => (
              <Table.Th key={head}>{head}</Table.Th>
            ))}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {lines.map((line) => (
            <Table.Tr key={line}>
              <Table.Th>{line}</Table.Th>
              {heads.map((head) => (
                <Table.Td key={head} miw={110} maw={280}>
                  <CellView
                    cell={cells.find((cell) => cell.at[0] === line && (cell.at[1] ?? "") === head) ?? null}
                    jobs={jobs}
                    onOpen={onOpen}
                  />
                </Table.Td>
              ))}
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

function CellView(props: { cell: Cell | null; jobs: Followed[]; onOpen: (picture: string) => void }) {
  const { cell, jobs, onOpen } = props;
  if (cell === null) return null;
  const job = jobs.find((j) => j.id === cell.job);
  const error = cell.error ?? job?.error?.message ?? (job?.state === "cancelled" ? "cancelled" : null);
  if (error !== null)
    return (
      <Text size="xs" c="var(--mantine-color-error)" maw={160}>
        {error}
      </Text>
    );
  const picture = job?.pictures[0];
  if (picture === undefined)
    return (
      <Center mih={90}>
        {job?.preview ? (
          <Image src={job.preview} alt="The picture on its way" w={96} />
        ) : job?.state === "queued" ? (
          <Text size="xs" c="dimmed">
            waits
          </Text>
        ) : (
          <Loader size="sm" aria-label="Being drawn" />
        )}
      </Center>
    );
  const name = cell.at.join(", ");
  return (
    <Card
      p={0}
      withBorder
      component="button"
      type="button"
      aria-label={`Open ${name}`}
      onClick={() => onOpen(picture.id)}
      style={{ cursor: "pointer" }}
    >
      <Image src={thumbnailAt(picture.id)} alt={name} />
    </Card>
  );
}
