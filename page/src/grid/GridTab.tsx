// One setting along the rows and one along the columns: a job a cell, each with a recipe of its own.

import { Alert, Button, Card, Center, Group, Image, Loader, Select, Stack, Table, Text, TextInput } from "@mantine/core";
import { useState } from "react";

import { thumbnailAt } from "../api/client";
import type { Settings } from "../api/types";
import type { Catalogue } from "../state/catalogue";
import { type Draft, put } from "../state/draft";
import type { Followed } from "../state/jobs";
import { cellsOf, valuesOf } from "./cells";

interface Props {
  draft: Draft;
  catalogue: Catalogue;
  jobs: Followed[];
  submit: (settings: Settings) => Promise<Followed>;
  onOpen: (picture: string) => void;
}

interface Cell {
  row: string;
  column: string;
  job: string | null;
  error: string | null;
}

const MOST = 64;

export function GridTab({ draft, catalogue, jobs, submit, onOpen }: Props) {
  const [rows, setRows] = useState({ field: "steps", values: "4, 8, 16" });
  const [columns, setColumns] = useState({ field: "cfg_scale", values: "1, 3, 7" });
  const [cells, setCells] = useState<Cell[]>([]);
  const [trouble, setTrouble] = useState<string | null>(null);

  const fields = [...catalogue.explained.values()].map((one) => one.field);
  const names = ["prompt", "seed", "steps", "cfg_scale", "sampler", "schedule", "model"];
  const choices = [...new Set([...names, ...fields])].filter((f) => !/^(size|source|mask|loras)/.test(f));

  const draw = async () => {
    setTrouble(null);
    const wanted = cellsOf(rows, columns);
    if (wanted.length === 0 || wanted.length > MOST) {
      setTrouble(`a grid has 1 to ${MOST} cells; these are ${wanted.length}`);
      return;
    }
    // all cells share a seed, so that only what the axes say differs
    const seed = draft.settings.seed ?? Math.floor(Math.random() * 2 ** 32);
    const base = put(put({ prompt: "", ...draft.settings }, "seed", seed), "count", undefined);
    const made: Cell[] = wanted.map(([row, column]) => ({ row, column, job: null, error: null }));
    setCells(made);
    for (const [place, [row, column]] of wanted.entries()) {
      const settings = put(put(base, rows.field, valueOf(row)), columns.field, valueOf(column));
      try {
        const job = await submit(settings);
        made[place] = { row, column, job: job.id, error: null };
      } catch (reason) {
        made[place] = { row, column, job: null, error: (reason as Error).message };
      }
      setCells([...made]);
    }
  };

  const heads = [...new Set(cells.map((c) => c.column))];
  const lines = [...new Set(cells.map((c) => c.row))];
  return (
    <Stack>
      <Text size="sm" c="dimmed">
        The prompt and all other settings are those of the first tab.
      </Text>
      <Group align="end">
        {([
          ["Rows", rows, setRows],
          ["Columns", columns, setColumns],
        ] as const).map(([label, axis, set]) => (
          <Group key={label} align="end" wrap="nowrap">
            <Select
              label={label}
              data={choices}
              searchable
              value={axis.field}
              onChange={(field) => field !== null && set({ ...axis, field })}
              w={150}
            />
            <TextInput
              label="Values"
              description="with commas between"
              value={axis.values}
              onChange={(e) => set({ ...axis, values: e.currentTarget.value })}
            />
          </Group>
        ))}
        <Button onClick={() => void draw()}>
          Draw {valuesOf(rows.values).length} × {valuesOf(columns.values).length}
        </Button>
      </Group>
      {trouble !== null && <Alert color="orange">{trouble}</Alert>}
      {cells.length > 0 && (
        <Table.ScrollContainer minWidth={300}>
          <Table withTableBorder withColumnBorders>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>
                  {rows.field} \ {columns.field}
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
                    <Table.Td key={head} miw={110}>
                      <CellView
                        cell={cells.find((c) => c.row === line && c.column === head) ?? null}
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
      )}
    </Stack>
  );
}

function CellView(props: { cell: Cell | null; jobs: Followed[]; onOpen: (picture: string) => void }) {
  const { cell, jobs, onOpen } = props;
  if (cell === null) return null;
  const job = jobs.find((j) => j.id === cell.job);
  const error = cell.error ?? job?.error?.message ?? null;
  if (error !== null)
    return (
      <Text size="xs" c="red" maw={160}>
        {error}
      </Text>
    );
  const picture = job?.pictures[0];
  if (picture === undefined)
    return (
      <Center mih={90}>{job?.preview ? <Image src={job.preview} alt="" w={96} /> : <Loader size="sm" />}</Center>
    );
  return (
    <Card
      p={0}
      withBorder
      component="button"
      type="button"
      aria-label={`Open ${cell.row}, ${cell.column}`}
      onClick={() => onOpen(picture.id)}
      style={{ cursor: "pointer" }}
    >
      <Image src={thumbnailAt(picture.id)} alt={`${cell.row}, ${cell.column}`} />
    </Card>
  );
}

/** A value as JSON has it if it is one: a number, a truth; else the text itself. */
function valueOf(text: string): unknown {
  if (/^(true|false|-?\d+(\.\d+)?)$/.test(text)) return JSON.parse(text);
  return text;
}
