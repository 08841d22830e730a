// Sigma over the steps, on a logarithmic scale, with the step that is looked at.

import type { LessonStep } from "../api/types";

const WIDTH = 320;
const HEIGHT = 170;
const LEFT = 44;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 16;

export function SigmaPlot({ steps, at }: { steps: LessonStep[]; at: number }) {
  const logs = steps.map((one) => Math.log10(Math.max(one.sigma, 1e-6)));
  const [high, low] = [Math.max(...logs), Math.min(...logs)];
  const x = (place: number) =>
    LEFT + ((WIDTH - LEFT - RIGHT) * place) / Math.max(steps.length - 1, 1);
  const y = (log: number) => TOP + ((HEIGHT - TOP - BOTTOM) * (high - log)) / Math.max(high - low, 1e-6);
  const line = logs.map((log, place) => `${x(place).toFixed(1)},${y(log).toFixed(1)}`).join(" ");
  const now = steps[at];
  if (now === undefined) return null;
  const ink = "var(--mantine-color-dimmed)";
  const accent = "var(--mantine-primary-color-filled)";
  return (
    <svg
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      role="img"
      aria-label={`Sigma falls from ${steps[0]?.sigma} to ${steps.at(-1)?.sigma}; at step ${now.step} it is ${now.sigma}`}
      style={{ width: "100%", maxWidth: 480, height: "auto", display: "block" }}
    >
      {[high, low].map((log, place) => (
        <text key={place} x={LEFT - 6} y={y(log) + 3} textAnchor="end" fontSize={9} fill={ink}>
          {short(10 ** log)}
        </text>
      ))}
      <text x={LEFT} y={HEIGHT - 3} fontSize={9} fill={ink}>
        step 1
      </text>
      <text x={WIDTH - RIGHT} y={HEIGHT - 3} textAnchor="end" fontSize={9} fill={ink}>
        step {steps.length}
      </text>
      <line x1={x(at)} x2={x(at)} y1={TOP - 4} y2={HEIGHT - BOTTOM + 2} stroke={accent} strokeWidth={1} />
      <polyline points={line} fill="none" stroke={ink} strokeWidth={1.5} />
      {logs.map((log, place) => (
        <circle
          key={place}
          cx={x(place)}
          cy={y(log)}
          r={place === at ? 4 : 2}
          fill={place === at ? accent : ink}
        />
      ))}
    </svg>
  );
}

export function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString();
}
