// Two pictures of one size over one another, with a line between them that is moved.

import { Group, Modal, Slider, Stack, Text } from "@mantine/core";
import { useState } from "react";

import { pictureAt } from "../api/client";
import type { Kept } from "../api/types";

export function Compare({ pair, onClose }: { pair: [Kept, Kept] | null; onClose: () => void }) {
  const [share, setShare] = useState(50);
  return (
    <Modal opened={pair !== null} onClose={onClose} title="Compare" size="xl">
      {pair !== null && (
        <Stack>
          <div style={{ position: "relative", width: "100%", aspectRatio: `${pair[0].width}/${pair[0].height}` }}>
            {pair.map((picture, place) => (
              <img
                key={picture.id}
                src={pictureAt(picture.id)}
                alt={picture.prompt}
                style={{
                  position: "absolute",
                  inset: 0,
                  width: "100%",
                  height: "100%",
                  objectFit: "contain",
                  clipPath: place === 1 ? `inset(0 0 0 ${share}%)` : "none",
                }}
              />
            ))}
          </div>
          <Slider
            value={share}
            onChange={setShare}
            thumbLabel="How much of the first picture is seen"
            label={(v) => `${v} %`}
          />
          <Group justify="space-between">
            {pair.map((picture) => (
              <Text key={picture.id} size="sm" maw="48%">
                {picture.prompt} (seed {picture.seed})
              </Text>
            ))}
          </Group>
        </Stack>
      )}
    </Modal>
  );
}
