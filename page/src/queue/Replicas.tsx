// How many replicas there are and draw, where there are several; each by name for who points at it.

import { Stack, Text, Tooltip, UnstyledButton } from "@mantine/core";

import type { Painter } from "../api/types";

export function Replicas({ painters }: { painters: Painter[] }) {
  if (painters.length < 2) return null;
  return (
    <Tooltip
      label={
        <Stack gap={2}>
          {painters.map((one) => (
            <Text key={one.name} size="xs">
              {one.name}: {doing(one)}
            </Text>
          ))}
        </Stack>
      }
      events={{ hover: true, focus: true, touch: true }}
    >
      <UnstyledButton aria-label={`Replicas: ${told(painters)}`} style={{ cursor: "default" }}>
        <Text size="xs" c={painters.some((one) => one.state === "dead") ? "var(--mantine-color-error)" : "dimmed"}>
          {told(painters)}
        </Text>
      </UnstyledButton>
    </Tooltip>
  );
}

/** How many there are, and how many of them do something, in a few words. */
function told(painters: Painter[]): string {
  const count = (state: Painter["state"]) => painters.filter((one) => one.state === state).length;
  const parts = [`${count("drawing")} of ${painters.length} replicas drawing`];
  if (count("loading") > 0) parts.push(`${count("loading")} loading`);
  if (count("dead") > 0) parts.push(`${count("dead")} being begun again`);
  return parts.join(", ");
}

function doing(one: Painter): string {
  switch (one.state) {
    case "drawing":
      return `draws ${one.jobs === 1 ? "a job" : `${one.jobs} jobs`}`;
    case "loading":
      return "loads a model";
    case "dead":
      return "died, and is begun again";
    case "free":
      return "free";
  }
}
