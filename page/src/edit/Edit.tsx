// Drawing on a picture: changed as a whole, where a mask was painted, or beyond its borders.

import {
  Button,
  FileButton,
  Grid,
  Group,
  NumberInput,
  SegmentedControl,
  SimpleGrid,
  Slider,
  Stack,
  Text,
} from "@mantine/core";
import { useEffect, useRef, useState } from "react";

import { api, pictureAt } from "../api/client";
import type { Settings } from "../api/types";
import { Panels } from "../draw/Panels";
import { Setting } from "../parts/Setting";
import type { Catalogue } from "../state/catalogue";
import { at, type Draft, put } from "../state/draft";
import { Controls } from "./Controls";
import { asPicture, blank, type Borders, isEmpty, MaskCanvas } from "./MaskCanvas";

interface Props {
  draft: Draft;
  catalogue: Catalogue;
  busy: boolean;
  onDraw: (settings: Settings) => void;
  onTrouble: (message: string) => void;
}

const MAIN = [
  "source.strength",
  "source.resize",
  "mask.text",
  "mask.content",
  "mask.area",
  "mask.blur",
  "mask.invert",
  "mask.soft",
];
const PANELS = ["source", "mask", "extend", "image_cfg_scale", "depth", "noise_level"];
const SIDES = ["left", "right", "top", "bottom"] as const;

export function Edit({ draft, catalogue, busy, onDraw, onTrouble }: Props) {
  const shared = { draft, catalogue };
  const picture = at(draft.settings, "source.picture");
  const id = typeof picture === "string" ? picture : null;
  const [size, setSize] = useState<[number, number] | null>(null);
  const [mask, setMask] = useState(() => blank(1, 1));
  const [version, setVersion] = useState(0);
  const [brush, setBrush] = useState(24);
  const [erase, setErase] = useState(false);
  const reset = useRef<() => void>(null);

  useEffect(() => {
    setSize(null);
    if (id === null) return;
    const image = new Image();
    let wanted = true;
    image.onload = () => {
      if (!wanted) return;
      setSize([image.naturalWidth, image.naturalHeight]);
      setMask(blank(image.naturalWidth, image.naturalHeight));
      setBrush(Math.max(4, Math.round(image.naturalWidth / 12)));
    };
    image.onerror = () => {
      if (!wanted) return;
      draft.set("source", undefined);
      onTrouble("the picture that was drawn on is not on the server any more");
    };
    image.src = pictureAt(id);
    return () => {
      wanted = false;
    };
    // only another picture begins anew
  }, [id]);

  const take = async (file: File | null) => {
    if (file === null) return;
    try {
      draft.set("source", { picture: (await api.upload(file)).id });
    } catch (reason) {
      onTrouble((reason as Error).message);
    }
    reset.current?.();
  };

  const borders = Object.fromEntries(
    SIDES.map((side) => [side, Number(at(draft.settings, `extend.${side}`) ?? 0)]),
  ) as unknown as Borders;

  const setBorders = (wanted: Borders) => {
    for (const side of SIDES) draft.set(`extend.${side}`, wanted[side] > 0 ? wanted[side] : undefined);
  };

  const drawn = async () => {
    try {
      let settings = draft.settings;
      // drawing beyond the borders paints what is new, and nothing of what is there
      const painted = isEmpty(mask) ? null : await api.upload(await asPicture(mask));
      settings =
        painted === null
          ? put(settings, "mask", undefined)
          : put(settings, "mask.picture", painted.id);
      onDraw(settings);
    } catch (reason) {
      onTrouble((reason as Error).message);
    }
  };

  return (
    <Grid gap="lg">
      <Grid.Col span={{ base: 12, md: 6 }}>
        <Stack>
          <Group>
            <FileButton resetRef={reset} onChange={(f) => void take(f)} accept="image/png,image/jpeg,image/webp">
              {(props) => (
                <Button variant="default" {...props}>
                  {id === null ? "Choose a picture" : "Another picture"}
                </Button>
              )}
            </FileButton>
            {id !== null && (
              <Button variant="subtle" onClick={() => draft.set("source", undefined)}>
                Leave it
              </Button>
            )}
          </Group>
          {id === null && (
            <Text c="dimmed">
              Choose a picture, drop one anywhere on this page, or open one of the gallery and choose
              “Draw on it”.
            </Text>
          )}
          {id !== null && size !== null && (
            <>
              <Group gap="md">
                <SegmentedControl
                  aria-label="Brush"
                  data={[
                    { value: "paint", label: "Paint the mask" },
                    { value: "erase", label: "Take away" },
                  ]}
                  value={erase ? "erase" : "paint"}
                  onChange={(v) => setErase(v === "erase")}
                />
                <Stack gap={0} flex={1} miw={120}>
                  <Text size="xs" id="brush-size">
                    Width of the brush: {brush} pixels
                  </Text>
                  <Slider
                    min={1}
                    max={Math.max(64, Math.round(size[0] / 2))}
                    value={brush}
                    onChange={setBrush}
                    label={null}
                    thumbProps={{ "aria-labelledby": "brush-size" }}
                  />
                </Stack>
                <Button
                  variant="default"
                  size="compact-sm"
                  onClick={() => {
                    setMask(blank(...size));
                    setVersion((n) => n + 1);
                  }}
                >
                  Clear
                </Button>
              </Group>
              <MaskCanvas
                src={pictureAt(id)}
                width={size[0]}
                height={size[1]}
                borders={borders}
                brush={{ size: brush, erase }}
                mask={mask}
                version={version}
                onPainted={() => setVersion((n) => n + 1)}
                onBorders={setBorders}
              />
            </>
          )}
        </Stack>
      </Grid.Col>
      <Grid.Col span={{ base: 12, md: 6 }}>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void drawn();
          }}
        >
          <Stack>
            <Setting {...shared} name="prompt" lines={2} />
            <Setting {...shared} name="negative_prompt" />
            <Button type="submit" loading={busy} disabled={id === null}>
              Draw on the picture
            </Button>
            <SimpleGrid cols={2} className="settings">
              {MAIN.map((name) => (
                <Setting key={name} {...shared} name={name} />
              ))}
            </SimpleGrid>
            <Text fw={500} size="sm">
              Beyond its borders
            </Text>
            <SimpleGrid cols={4}>
              {SIDES.map((side) => (
                <NumberInput
                  key={side}
                  label={side}
                  min={0}
                  step={64}
                  allowDecimal={false}
                  value={borders[side] || ""}
                  onChange={(v) => draft.set(`extend.${side}`, typeof v === "number" && v > 0 ? v : undefined)}
                />
              ))}
            </SimpleGrid>
            <Controls {...shared} onTrouble={onTrouble} />
            <Panels {...shared} without={elsewhere} />
          </Stack>
        </form>
      </Grid.Col>
    </Grid>
  );
}

/** All but the settings of a picture that is drawn on; the others are on the first tab. */
function elsewhere(name: string): boolean {
  const inFrame = SIDES.some((side) => name === `extend.${side}`);
  const first = name.split(".")[0] ?? "";
  return MAIN.includes(name) || inFrame || /\.picture$/.test(name) || !PANELS.includes(first);
}
