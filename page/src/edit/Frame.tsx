// The handles of the frame by which a picture grows: each side is pulled outwards with the pointer, in
// the picture's own pixels. The numbers beside the picture do the same by keyboard.

import { type PointerEvent, useRef } from "react";

import type { Borders } from "./MaskCanvas";

interface Props {
  borders: Borders;
  whole: { width: number; height: number }; // with the borders, in pixels of the picture
  onBorders: (borders: Borders) => void;
}

const STEP = 8; // pixels
const SIDES: { side: keyof Borders; across: boolean; outwards: 1 | -1 }[] = [
  { side: "left", across: true, outwards: -1 },
  { side: "right", across: true, outwards: 1 },
  { side: "top", across: false, outwards: -1 },
  { side: "bottom", across: false, outwards: 1 },
];

export function Frame({ borders, whole, onBorders }: Props) {
  // where a pull began; the scale stays that of the beginning, for the frame grows meanwhile
  const pull = useRef<{ from: number; border: number; scale: number } | null>(null);
  return SIDES.map(({ side, across, outwards }) => {
    const start = (event: PointerEvent<HTMLDivElement>) => {
      event.preventDefault();
      const box = event.currentTarget.parentElement?.getBoundingClientRect();
      if (box === undefined) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      pull.current = {
        from: across ? event.clientX : event.clientY,
        border: borders[side],
        scale: whole.width / box.width,
      };
    };
    const move = (event: PointerEvent<HTMLDivElement>) => {
      if (pull.current === null) return;
      const { from, border, scale } = pull.current;
      const far = ((across ? event.clientX : event.clientY) - from) * outwards * scale;
      const pixels = Math.max(0, Math.round((border + far) / STEP) * STEP);
      if (pixels !== borders[side]) onBorders({ ...borders, [side]: pixels });
    };
    return (
      <div
        key={side}
        className="frame-handle"
        data-side={side}
        title={`Pull to grow the picture: ${side}`}
        aria-hidden // the numbers are there for who does not point
        onPointerDown={start}
        onPointerMove={move}
        onPointerUp={() => {
          pull.current = null;
        }}
        style={{
          cursor: across ? "ew-resize" : "ns-resize",
          touchAction: "none",
          ...(across ? { [side]: -10, top: "30%", bottom: "30%", width: 18 } : { [side]: -10, left: "30%", right: "30%", height: 18 }),
        }}
      />
    );
  });
}
