// Two pictures over one another, with a line between them that is moved: pulled, or by the slider.

import { Group, Modal, Slider, Stack, Text } from "@mantine/core";
import { type PointerEvent, useState } from "react";

import { pictureAt } from "../api/client";
import type { Kept } from "../api/types";

export function Compare({ pair, onClose }: { pair: [Kept, Kept] | null; onClose: () => void }) {
  const [share, setShare] = useState(50);
  const pull = (event: PointerEvent<HTMLDivElement>) => {
    if (event.type === "pointermove" && event.buttons === 0) return;
    if (event.type === "pointerdown") event.currentTarget.setPointerCapture(event.pointerId);
    const box = event.currentTarget.getBoundingClientRect();
    setShare(Math.round(Math.min(Math.max((100 * (event.clientX - box.left)) / box.width, 0), 100)));
  };
  const shape = pair === null ? 1 : pair[0].width / pair[0].height;
  return (
    <Modal closeButtonProps={{ "aria-label": "Close" }} opened={pair !== null} onClose={onClose} title="Compare" size="xl">
      {pair !== null && (
        <Stack>
          <div
            onPointerDown={pull}
            onPointerMove={pull}
            style={{
              position: "relative",
              width: `min(100%, ${60 * shape}vh)`, // with the slider below it in sight
              aspectRatio: shape,
              margin: "0 auto",
              cursor: "ew-resize",
              touchAction: "pan-y",
            }}
          >
            {pair.map((picture, place) => (
              <img
                key={picture.id}
                src={pictureAt(picture.id)}
                alt={`${place === 0 ? "Left" : "Right"}: ${picture.prompt}, seed ${picture.seed}`}
                draggable={false}
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
            <div
              aria-hidden
              style={{
                position: "absolute",
                top: 0,
                bottom: 0,
                left: `calc(${share}% - 1px)`,
                width: 2,
                background: "#fff",
                outline: "1px solid #0008",
              }}
            />
          </div>
          <Slider
            value={share}
            onChange={setShare}
            thumbLabel="How much of the first picture is seen"
            label={(v) => `${v} %`}
          />
          <Group justify="space-between" align="start" wrap="nowrap">
            {pair.map((picture, place) => (
              <Text key={picture.id} size="sm" maw="48%" ta={place === 0 ? "left" : "right"}>
                {picture.prompt} (seed {picture.seed})
              </Text>
            ))}
          </Group>
        </Stack>
      )}
    </Modal>
  );
}
