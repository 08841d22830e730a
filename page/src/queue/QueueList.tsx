// What runs, what waits and what was: kept by the server, so that a reload shows the same.

import { ActionIcon, Button, Card, ColorSwatch, Group, Image, Progress, Stack, Text, UnstyledButton } from "@mantine/core";
import { IconX } from "@tabler/icons-react";

import { thumbnailAt } from "../api/client";
import { standing } from "../draw/Current";
import { type Followed, isOver } from "../state/jobs";

interface Props {
  jobs: Followed[];
  looked: string | null;
  onLook: (id: string) => void;
  onCancel: (id: string) => void;
  onEarlier: (() => void) | null;
}

const COLOURS = {
  queued: "var(--mantine-color-gray-6)",
  running: "var(--mantine-color-blue-6)",
  done: "var(--mantine-color-teal-6)",
  failed: "var(--mantine-color-red-6)",
  cancelled: "var(--mantine-color-orange-6)",
};

export function QueueList({ jobs, looked, onLook, onCancel, onEarlier }: Props) {
  return (
    <Stack gap={6}>
    {jobs.length === 0 && (
      <Text size="sm" c="dimmed">
        Nothing was asked for yet.
      </Text>
    )}
    <Stack gap={6} {...(jobs.length > 0 && { role: "list", "aria-label": "Jobs, the newest first" })}>
      {jobs.map((job) => {
        const first = job.pictures[0];
        return (
          <Card
            key={job.id}
            p={6}
            withBorder
            role="listitem"
            bd={job.id === looked ? "1px solid var(--mantine-primary-color-filled)" : undefined}
          >
            <Group wrap="nowrap" gap={8}>
              {first === undefined ? null : (
                <Image src={thumbnailAt(first.id, 64)} alt="" w={44} h={44} radius="sm" />
              )}
              <UnstyledButton onClick={() => onLook(job.id)} flex={1} miw={0}>
                <Text size="sm" truncate>
                  {job.door === "lesson" && "Lesson: "}
                  {job.request.prompt || "(no prompt)"}
                </Text>
                <Group gap={6}>
                  <ColorSwatch size={9} color={COLOURS[job.state]} withShadow={false} />
                  <Text size="xs" c="dimmed">
                    {standing(job)}
                  </Text>
                </Group>
                {job.state === "running" && (
                  <Progress size={3} mt={4} value={100 * job.progress} aria-label="Progress" />
                )}
              </UnstyledButton>
              {!isOver(job) && (
                <ActionIcon
                  variant="subtle"
                  color="red"
                  aria-label={`Cancel: ${job.request.prompt ?? "job"}`}
                  onClick={() => onCancel(job.id)}
                >
                  <IconX size={16} />
                </ActionIcon>
              )}
            </Group>
          </Card>
        );
      })}
    </Stack>
    {onEarlier !== null && (
      <Button variant="subtle" size="compact-sm" onClick={onEarlier}>
        Earlier ones
      </Button>
    )}
    </Stack>
  );
}
