// The page: what is being drawn and how on the left, what comes of it beside, and what was drawn.

import {
  ActionIcon,
  Alert,
  AppShell,
  Badge,
  Button,
  Center,
  Grid,
  Group,
  Loader,
  Tabs,
  Title,
  useComputedColorScheme,
  useMantineColorScheme,
} from "@mantine/core";
import { IconMoon, IconSun } from "@tabler/icons-react";
import { useCallback, useEffect, useRef, useState } from "react";

import type { Kept, Settings } from "./api/types";
import { Current } from "./draw/Current";
import { Edit } from "./edit/Edit";
import { Form } from "./draw/Form";
import { Compare } from "./gallery/Compare";
import { Gallery } from "./gallery/Gallery";
import { GridTab } from "./grid/GridTab";
import { LessonTab } from "./lesson/LessonTab";
import { Dropped } from "./parts/Dropped";
import { Opened } from "./gallery/Opened";
import { QueueList } from "./queue/QueueList";
import { Replicas } from "./queue/Replicas";
import { useCatalogue } from "./state/catalogue";
import { at, put, useDraft } from "./state/draft";
import { useGrid } from "./state/grid";
import { isOver, useJobs } from "./state/jobs";
import { usePainters } from "./state/painters";

const HEADER = 52; // pixels
const BELOW_HEADER = { scrollMarginTop: HEADER + 8 };
const NARROW = "(max-width: 62em)"; // Mantine's md

interface Props {
  signOut: (() => void) | null; // where there are keys
}

export function App({ signOut }: Props) {
  const [tab, setTab] = useState<string | null>("draw");
  const [fresh, setFresh] = useState(0);
  const [looked, setLooked] = useState<string | null>(null);
  const [opened, setOpened] = useState<string | null>(null);
  const [lesson, setLesson] = useState<string | null>(null);
  const [pair, setPair] = useState<[Kept, Kept] | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const seen = useRef<HTMLDivElement>(null);
  const draft = useDraft();
  const [grid, setGrid] = useGrid();
  const model = at(draft.settings, "model");
  const { found, error } = useCatalogue(typeof model === "string" ? model : null);
  const { jobs, submit, adopt, cancel, reload, earlier } = useJobs(
    useCallback(() => setFresh((n) => n + 1), []),
  );

  // also after each job, for its times and its end as the server tells them
  useEffect(() => {
    reload().catch((reason: Error) => setTrouble(reason.message));
  }, [reload, fresh]);

  // where the columns stand below one another, what is looked at is far from where it was chosen
  useEffect(() => {
    if (looked === null || !window.matchMedia(NARROW).matches) return;
    seen.current?.scrollIntoView({ block: "start" });
  }, [looked]);

  const draw = useCallback(
    async (settings: Settings) => {
      setBusy(true);
      setTrouble(null);
      try {
        setLooked((await submit({ prompt: "", ...settings })).id);
      } catch (reason) {
        setTrouble((reason as Error).message);
      } finally {
        setBusy(false);
      }
    },
    [submit],
  );

  const reuse = useCallback(
    (settings: Settings) => {
      draft.replace(settings);
      setOpened(null);
      setTab(at(settings, "source.picture") === undefined ? "draw" : "edit");
    },
    [draft],
  );
  const edit = useCallback(
    (picture: string) => {
      draft.set("source", { picture });
      setOpened(null);
      setTab("edit");
    },
    [draft],
  );

  const learn = useCallback((picture: string) => {
    setLesson(picture);
    setOpened(null);
    setTab("lesson");
  }, []);

  const waiting = jobs.filter((job) => !isOver(job)).length;
  const painters = usePainters(fresh, waiting > 0);
  const shown = jobs.find((job) => job.id === looked) ?? jobs.find((job) => !isOver(job)) ?? null;
  // below the settings it needs room of its own, or there is nothing to scroll to
  const room = { base: shown === null ? 0 : "85vh", md: 0 };
  return (
    <AppShell header={{ height: HEADER }} padding="md">
      <AppShell.Header>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap">
          <Group gap="xs" wrap="nowrap">
            <Title order={1} size="h3" c="var(--mantine-primary-color-filled)">
              Safelight
            </Title>
            {waiting > 0 && <Badge variant="default">{waiting} to draw</Badge>}
          </Group>
          <Group gap="xs" wrap="nowrap">
            {signOut !== null && (
              <Button variant="subtle" color="gray" size="compact-sm" onClick={signOut}>
                Sign out
              </Button>
            )}
            <SchemeButton />
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Main>
        {(error ?? trouble) !== null && (
          <Alert color="red" mb="md" withCloseButton closeButtonLabel="Close" onClose={() => setTrouble(null)} role="alert">
            {error ?? trouble}
          </Alert>
        )}
        {found === null ? (
          <Center mih={240}>{error === null && <Loader aria-label="Loading" />}</Center>
        ) : (
          <Tabs value={tab} onChange={setTab} keepMounted={false}>
            <Tabs.List mb="md">
              <Tabs.Tab value="draw">Draw</Tabs.Tab>
              <Tabs.Tab value="edit">Edit</Tabs.Tab>
              <Tabs.Tab value="grid">Grid</Tabs.Tab>
              <Tabs.Tab value="gallery">Gallery</Tabs.Tab>
              <Tabs.Tab value="lesson">Lesson</Tabs.Tab>
            </Tabs.List>
            <Tabs.Panel value="draw">
              <Grid gap="lg">
                <Grid.Col span={{ base: 12, md: 5, lg: 4 }}>
                  <Form
                    draft={draft}
                    catalogue={found}
                    busy={busy}
                    onDraw={() => void draw(fromText(draft.settings))}
                  />
                </Grid.Col>
                <Grid.Col span={{ base: 12, md: 7, lg: 5 }} ref={seen} style={BELOW_HEADER} mih={room}>
                  <Current
                    job={shown}
                    onCancel={(id) => void cancel(id)}
                    onOpen={setOpened}
                  />
                </Grid.Col>
                <Grid.Col span={{ base: 12, lg: 3 }}>
                  <Replicas painters={painters} />
                  <QueueList
                    jobs={jobs}
                    looked={shown?.id ?? null}
                    onLook={setLooked}
                    onCancel={(id) => void cancel(id)}
                    onEarlier={earlier}
                  />
                </Grid.Col>
              </Grid>
            </Tabs.Panel>
            <Tabs.Panel value="edit">
              <Grid gap="lg">
                <Grid.Col span={{ base: 12, lg: 9 }}>
                  <Edit
                    draft={draft}
                    catalogue={found}
                    busy={busy}
                    onDraw={(settings) => void draw(settings)}
                    onTrouble={setTrouble}
                  />
                </Grid.Col>
                <Grid.Col span={{ base: 12, lg: 3 }} ref={seen} style={BELOW_HEADER} mih={room}>
                  <Current job={shown} onCancel={(id) => void cancel(id)} onOpen={setOpened} />
                </Grid.Col>
              </Grid>
            </Tabs.Panel>
            <Tabs.Panel value="grid">
              <GridTab
                draft={{ ...draft, settings: fromText(draft.settings) }}
                catalogue={found}
                jobs={jobs}
                grid={grid}
                onGrid={setGrid}
                submit={submit}
                adopt={adopt}
                onCancel={(id) => void cancel(id)}
                onOpen={setOpened}
              />
            </Tabs.Panel>
            <Tabs.Panel value="gallery">
              <Gallery fresh={fresh} onOpen={setOpened} onCompare={setPair} />
            </Tabs.Panel>
            <Tabs.Panel value="lesson">
              <LessonTab
                picture={lesson}
                jobs={jobs}
                adopt={adopt}
                onChoose={setLesson}
                onCancel={(id) => void cancel(id)}
              />
            </Tabs.Panel>
          </Tabs>
        )}
      </AppShell.Main>
      <Opened
        picture={opened}
        defaults={found?.defaults ?? {}}
        onClose={() => setOpened(null)}
        onReuse={reuse}
        onEdit={edit}
        onLesson={learn}
        onDeleted={() => {
          if (opened === lesson) setLesson(null);
          setOpened(null);
          setFresh((n) => n + 1);
        }}
      />
      <Dropped defaults={found?.defaults ?? {}} onReuse={reuse} onEdit={edit} onTrouble={setTrouble} />
      <Compare pair={pair} onClose={() => setPair(null)} />
    </AppShell>
  );
}

/** The settings without a picture to start from: what the first tab draws. */
function fromText(settings: Settings): Settings {
  return ["source", "mask", "extend"].reduce((s, name) => put(s, name, undefined), settings);
}

function SchemeButton() {
  const { setColorScheme } = useMantineColorScheme();
  const dark = useComputedColorScheme("dark") === "dark";
  return (
    <ActionIcon
      variant="subtle"
      size="lg"
      aria-label={dark ? "Light colours" : "Dark colours"}
      onClick={() => setColorScheme(dark ? "light" : "dark")}
    >
      {dark ? <IconSun size={20} /> : <IconMoon size={20} />}
    </ActionIcon>
  );
}
