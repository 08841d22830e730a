// A picture's lesson: asked for, drawn if it was not yet, and shown; or a picture to choose for one.

import { Alert, Button, Card, Center, Group, Image, Loader, Progress, SimpleGrid, Stack, Text } from "@mantine/core";
import { useEffect, useState } from "react";

import { api, thumbnailAt } from "../api/client";
import type { Job, Kept, Lesson } from "../api/types";
import { standing } from "../draw/Current";
import { type Followed, isOver } from "../state/jobs";
import { Player } from "./Player";

interface Props {
  picture: string | null;
  jobs: Followed[];
  adopt: (job: Job) => Followed;
  onChoose: (picture: string | null) => void;
  onCancel: (job: string) => void;
}

export function LessonTab({ picture, jobs, adopt, onChoose, onCancel }: Props) {
  const [lesson, setLesson] = useState<Lesson | null>(null);
  const [asked, setAsked] = useState<string | null>(null);
  const [error, setError] = useState<string | null>(null);
  const job = jobs.find((one) => one.id === asked) ?? null;
  const state = job?.state ?? null;

  useEffect(() => {
    setLesson(null);
    setAsked(null);
    setError(null);
    if (picture === null) return;
    let wanted = true;
    const show = async () => {
      const told = await api.teach(picture);
      if (!wanted) return;
      if (told.job !== null) setAsked(adopt(told.job).id);
      else {
        const kept = await api.lesson(picture);
        if (wanted) setLesson(kept);
      }
    };
    show().catch((reason: Error) => wanted && setError(reason.message));
    return () => {
      wanted = false;
    };
  }, [picture, adopt]);

  useEffect(() => {
    if (picture === null || asked === null || state !== "done") return;
    let wanted = true;
    api.lesson(picture).then(
      (kept) => wanted && setLesson(kept),
      (reason: Error) => wanted && setError(reason.message),
    );
    return () => {
      wanted = false;
    };
  }, [picture, asked, state]);

  if (picture === null) return <Choice onChoose={onChoose} />;
  const trouble = error ?? job?.error?.message ?? (state === "cancelled" ? "It was cancelled." : null);
  return (
    <Stack>
      <Group justify="space-between">
        <Text size="sm" c="dimmed">
          {lesson === null
            ? "The picture is drawn again as it was drawn, while every step is kept."
            : "The picture was drawn again as it was drawn, and every step was kept."}
        </Text>
        <Button variant="default" size="compact-sm" onClick={() => onChoose(null)}>
          Another picture
        </Button>
      </Group>
      {trouble !== null && (
        <Alert color="red" role="alert" title="No lesson">
          {trouble}
        </Alert>
      )}
      {lesson !== null && !lesson.same && (
        <Alert color="orange">
          It came out otherwise than when it was first drawn: the lesson is of the one drawn now.
        </Alert>
      )}
      {lesson !== null && <Player lesson={lesson} />}
      {lesson === null && trouble === null && (
        <Stack maw={480}>
          {job === null ? (
            <Center mih={160}>
              <Loader aria-label="Loading" />
            </Center>
          ) : (
            <>
              <Text size="sm" role="status">
                {standing(job)}
              </Text>
              <Progress value={100 * job.progress} aria-label="Progress" animated={state === "running"} />
              {!isOver(job) && (
                <Group>
                  <Button variant="light" color="red" size="compact-sm" onClick={() => onCancel(job.id)}>
                    Cancel
                  </Button>
                </Group>
              )}
            </>
          )}
        </Stack>
      )}
    </Stack>
  );
}

function Choice({ onChoose }: { onChoose: (picture: string) => void }) {
  const [pictures, setPictures] = useState<Kept[] | null>(null);
  const [error, setError] = useState<string | null>(null);
  useEffect(() => {
    api.gallery("", null).then(
      (found) => setPictures(found.pictures),
      (reason: Error) => setError(reason.message),
    );
  }, []);
  return (
    <Stack>
      <Text>
        A lesson shows how a picture came out of noise, step by step. Choose one of yours; it is drawn
        again as it was drawn, while every step is kept.
      </Text>
      {error !== null && <Text c="var(--mantine-color-error)">{error}</Text>}
      {pictures?.length === 0 && <Text c="dimmed">No picture is here. Draw one first.</Text>}
      <SimpleGrid cols={{ base: 3, xs: 4, sm: 6, lg: 8 }} spacing="xs">
        {(pictures ?? []).map((picture) => (
          <Card
            key={picture.id}
            p={0}
            withBorder
            component="button"
            type="button"
            aria-label={`Lesson of: ${picture.prompt}`}
            onClick={() => onChoose(picture.id)}
            style={{ cursor: "pointer" }}
          >
            <Image src={thumbnailAt(picture.id)} alt="" fit="cover" style={{ aspectRatio: 1 }} />
          </Card>
        ))}
      </SimpleGrid>
    </Stack>
  );
}
