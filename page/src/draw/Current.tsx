// The job that is looked at: where it stands, what is seen of it so far, and its pictures.

import { Alert, Button, Card, Center, Group, Image, Progress, SimpleGrid, Stack, Text } from "@mantine/core";

import { pictureAt } from "../api/client";
import { type Followed, isOver } from "../state/jobs";

interface Props {
  job: Followed | null;
  onCancel: (id: string) => void;
  onOpen: (picture: string) => void;
}

export function Current({ job, onCancel, onOpen }: Props) {
  if (job === null)
    return (
      <Center mih={320}>
        <Text c="dimmed">What you draw appears here.</Text>
      </Center>
    );
  return (
    <Stack aria-label="The job that is looked at" role="region">
      <Group justify="space-between" wrap="nowrap">
        <Text size="sm" aria-live="polite" role="status">
          {standing(job)}
        </Text>
        {!isOver(job) && (
          <Button size="compact-sm" variant="light" color="red" onClick={() => onCancel(job.id)}>
            Cancel
          </Button>
        )}
      </Group>
      {!isOver(job) && (
        <Progress value={100 * job.progress} aria-label="Progress" animated={job.state === "running"} />
      )}
      {job.error !== null && (
        <Alert color="red" title="Not drawn">
          {job.error.message}
        </Alert>
      )}
      {job.warnings.map((warning) => (
        <Alert key={warning} color="orange" py={6}>
          {warning}
        </Alert>
      ))}
      <SimpleGrid cols={{ base: 1, sm: (job.request.count ?? 1) > 1 ? 2 : 1 }}>
        {job.preview !== null && (
          <Card p={0} withBorder>
            <Image src={job.preview} alt="The picture on its way" style={{ imageRendering: "auto" }} />
          </Card>
        )}
        {job.pictures.map((picture) => (
          <Card
            key={picture.id}
            p={0}
            withBorder
            component="button"
            type="button"
            aria-label={`Open picture ${picture.index + 1}`}
            onClick={() => onOpen(picture.id)}
            style={{ cursor: "pointer" }}
          >
            <Image src={pictureAt(picture.id)} alt={job.request.prompt ?? ""} />
          </Card>
        ))}
      </SimpleGrid>
    </Stack>
  );
}

/** Where a job stands, in a sentence. */
export function standing(job: Followed): string {
  switch (job.state) {
    case "queued":
      return job.position !== null && job.position > 1
        ? `Number ${job.position} in the queue${soon(job.eta)}`
        : `Next in the queue${soon(job.eta)}`;
    case "running":
      return job.steps > 0 ? `Step ${job.step} of ${job.steps}${soon(job.eta)}` : "Begun";
    case "done":
      return `Drawn${took(job)}`;
    case "failed":
      return "Failed";
    case "cancelled":
      return `Cancelled${job.reason ? `: ${job.reason}` : ""}`;
  }
}

function soon(eta: number | null): string {
  return eta === null || eta <= 0 ? "" : `, about ${seconds(eta)} to go`;
}

function took(job: Followed): string {
  return job.started !== null && job.finished !== null
    ? ` in ${seconds(job.finished - job.started)}`
    : "";
}

export function seconds(value: number): string {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 100) return `${Math.round(value)} s`;
  return `${Math.round(value / 60)} min`;
}
