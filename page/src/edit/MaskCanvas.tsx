// A picture with a mask that is painted on it, and the frame by which it grows. The mask has the
// picture's own pixels; what is seen is scaled.

import { type KeyboardEvent, type PointerEvent, useCallback, useEffect, useRef, useState } from "react";

import { Frame } from "./Frame";

export interface Borders {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

export interface Brush {
  size: number; // pixels of the picture
  erase: boolean;
}

interface Props {
  src: string;
  width: number;
  height: number;
  borders: Borders;
  brush: Brush;
  mask: HTMLCanvasElement; // white on transparent, of the picture's size
  version: number; // grows when the mask was changed from outside
  onPainted: () => void;
  onBorders: (borders: Borders) => void;
}

export function MaskCanvas(props: Props) {
  const { src, width, height, borders, brush, mask, version, onPainted, onBorders } = props;
  const seen = useRef<HTMLCanvasElement>(null);
  const last = useRef<[number, number] | null>(null);
  const [cursor, setCursor] = useState<[number, number] | null>(null); // by keyboard

  const show = useCallback(() => {
    const context = seen.current?.getContext("2d");
    if (!context) return;
    context.clearRect(0, 0, width, height);
    context.globalAlpha = 0.55;
    context.drawImage(mask, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "#00c8ff"; // unlike most of what pictures show
    context.globalAlpha = 1;
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
  }, [mask, width, height]);
  useEffect(show, [show, version]);

  const place = (event: PointerEvent<HTMLCanvasElement>): [number, number] => {
    const box = event.currentTarget.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * width,
      ((event.clientY - box.top) / box.height) * height,
    ];
  };
  const stroke = (to: [number, number]) => {
    paint(mask, last.current ?? to, to, brush);
    last.current = to;
    show();
  };

  const keyed = (event: KeyboardEvent<HTMLCanvasElement>) => {
    const from = cursor ?? [width / 2, height / 2];
    const step = Math.max(1, brush.size / (event.shiftKey ? 1 : 4));
    const way = WAYS[event.key];
    if (way !== undefined) {
      event.preventDefault();
      const to: [number, number] = [
        Math.min(Math.max(from[0] + way[0] * step, 0), width),
        Math.min(Math.max(from[1] + way[1] * step, 0), height),
      ];
      setCursor(to);
      if (last.current !== null) stroke(to);
    } else if (event.key === " " || event.key === "Enter") {
      event.preventDefault(); // the key that is held draws on
      setCursor(from);
      stroke(from);
    }
  };
  const lifted = (event: KeyboardEvent<HTMLCanvasElement>) => {
    if ((event.key !== " " && event.key !== "Enter") || last.current === null) return;
    last.current = null;
    onPainted();
  };

  const whole = { width: borders.left + width + borders.right, height: borders.top + height + borders.bottom };
  const share = (part: number, of: number) => `${(100 * part) / of}%`;
  return (
    <div
      style={{
        position: "relative",
        width: "100%",
        aspectRatio: `${whole.width}/${whole.height}`,
        background: "repeating-conic-gradient(#8884 0 25%, transparent 0 50%) 0 0/24px 24px",
        outline: "1px dashed #888",
      }}
    >
      {(["img", "canvas"] as const).map((kind) => {
        const style = {
          position: "absolute" as const,
          left: share(borders.left, whole.width),
          top: share(borders.top, whole.height),
          width: share(width, whole.width),
          height: share(height, whole.height),
        };
        return kind === "img" ? (
          <img key={kind} src={src} alt="The picture that is drawn on" style={style} />
        ) : (
          <canvas
            key={kind}
            ref={seen}
            width={width}
            height={height}
            tabIndex={0}
            role="application"
            aria-label="Mask: paint where the picture is to be drawn anew; arrow keys move the brush, the space bar held down paints"
            onKeyDown={keyed}
            onKeyUp={lifted}
            onFocus={(e) => e.currentTarget.matches(":focus-visible") && setCursor([width / 2, height / 2])}
            onBlur={() => setCursor(null)}
            style={{ ...style, cursor: "crosshair", touchAction: "none" }}
            onPointerDown={(e) => {
              e.currentTarget.setPointerCapture(e.pointerId);
              last.current = null;
              setCursor(null);
              stroke(place(e));
            }}
            onPointerMove={(e) => {
              if (e.buttons !== 0 && last.current !== null) stroke(place(e));
            }}
            onPointerUp={() => {
              last.current = null;
              onPainted();
            }}
          />
        );
      })}
      {cursor !== null && (
        <div
          aria-hidden
          style={{
            position: "absolute",
            left: share(borders.left + cursor[0] - brush.size / 2, whole.width),
            top: share(borders.top + cursor[1] - brush.size / 2, whole.height),
            width: share(brush.size, whole.width),
            height: share(brush.size, whole.height),
            border: "2px solid #fff",
            outline: "1px solid #000",
            borderRadius: "50%",
            pointerEvents: "none",
          }}
        />
      )}
      <Frame borders={borders} whole={whole} onBorders={onBorders} />
    </div>
  );
}

const WAYS: { [key: string]: [number, number] } = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/** A round stroke from one place to another. */
function paint(
  mask: HTMLCanvasElement,
  from: [number, number],
  to: [number, number],
  brush: Brush,
): void {
  const context = mask.getContext("2d");
  if (!context) return;
  context.globalCompositeOperation = brush.erase ? "destination-out" : "source-over";
  context.strokeStyle = "#fff";
  context.lineWidth = brush.size;
  context.lineCap = "round";
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(to[0] + 0.01, to[1]);
  context.stroke();
}

/** An empty mask. */
export function blank(width: number, height: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/** Whether nothing is painted. */
export function isEmpty(mask: HTMLCanvasElement): boolean {
  const context = mask.getContext("2d");
  if (!context || mask.width === 0) return true;
  const { data } = context.getImageData(0, 0, mask.width, mask.height);
  for (let k = 3; k < data.length; k += 4) if (data[k] !== 0) return false;
  return true;
}

/** The mask as the server reads it: white is painted, black stays. */
export async function asPicture(mask: HTMLCanvasElement): Promise<Blob> {
  const flat = blank(mask.width, mask.height);
  const context = flat.getContext("2d");
  if (!context) throw new Error("this browser draws no pictures");
  context.fillStyle = "#000";
  context.fillRect(0, 0, flat.width, flat.height);
  context.drawImage(mask, 0, 0);
  return await new Promise((done, failed) =>
    flat.toBlob((blob) => (blob === null ? failed(new Error("no picture was made")) : done(blob)), "image/png"),
  );
}
