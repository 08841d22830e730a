// Every other setting, by subject, and found by words.

import { Accordion, SimpleGrid, Stack, Text, TextInput } from "@mantine/core";
import { useState } from "react";

import { Setting } from "../parts/Setting";
import type { Catalogue } from "../state/catalogue";
import { at, type Draft } from "../state/draft";
import type { Field } from "../state/fields";
import { Loras } from "./Loras";

interface Props {
  draft: Draft;
  catalogue: Catalogue;
  without: (name: string) => boolean; // what has its place elsewhere
  loras?: boolean;
}

export function Panels({ draft, catalogue, without, loras = false }: Props) {
  const [words, setWords] = useState("");
  const [open, setOpen] = useState<string[]>([]); // what is closed has no controls, so that typing stays quick
  const fields = [...catalogue.fields.values()].filter((one) => !without(one.name));
  const wanted = words.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const panels = [...new Set(fields.map((one) => one.panel))];
  const found = fields.filter((one) => fits(one, wanted));
  return (
    <Stack gap="xs">
      <TextInput
        label="Find a setting"
        placeholder="eta, hires, tiles ..."
        value={words}
        onChange={(e) => setWords(e.currentTarget.value)}
      />
      {wanted.length > 0 ? (
        <>
          {found.length === 0 && <Text c="dimmed">There is no setting of these words.</Text>}
          <Rows fields={found} draft={draft} catalogue={catalogue} />
        </>
      ) : (
        <Accordion multiple variant="separated" chevronPosition="left" value={open} onChange={setOpen}>
          {loras && (
            <Accordion.Item value="loras">
              <Accordion.Control>LoRAs and learned words</Accordion.Control>
              <Accordion.Panel>
                <Loras draft={draft} catalogue={catalogue} />
              </Accordion.Panel>
            </Accordion.Item>
          )}
          {panels.map((panel) => {
            const key = panel.replace(/\W+/g, "-"); // ids have no spaces
            const own = fields.filter((one) => one.panel === panel);
            const set = own.filter((one) => at(draft.settings, one.name) !== undefined).length;
            return (
              <Accordion.Item key={panel} value={key}>
                <Accordion.Control>
                  {panel || "More"}
                  {set > 0 && (
                    <Text span size="xs" c="dimmed">
                      {" "}
                      {set} set
                    </Text>
                  )}
                </Accordion.Control>
                <Accordion.Panel>
                  {open.includes(key) && <Rows fields={own} draft={draft} catalogue={catalogue} />}
                </Accordion.Panel>
              </Accordion.Item>
            );
          })}
        </Accordion>
      )}
    </Stack>
  );
}

function Rows({ fields, draft, catalogue }: { fields: Field[]; draft: Draft; catalogue: Catalogue }) {
  return (
    <SimpleGrid cols={2} className="settings">
      {fields.map((one) => (
        <Setting key={one.name} name={one.name} draft={draft} catalogue={catalogue} />
      ))}
    </SimpleGrid>
  );
}

function fits(field: Field, words: string[]): boolean {
  const text = `${field.name} ${field.label} ${field.meaning} ${field.panel}`.toLowerCase();
  return words.every((word) => text.includes(word));
}
