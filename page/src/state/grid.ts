// The grid that was asked for last: its axes, and the job of each cell. It outlives a change of tabs
// and a reload; the pictures themselves live on the server.

import { useEffect, useState } from "react";

import { type Axis, type Cell, AXES } from "../grid/cells";
import { isGroup } from "./draft";

const PLACE = "safelight.grid";

export interface Grid {
  axes: Axis[]; // rows, columns, pages
  drawn: Axis[]; // those of the cells
  cells: Cell[];
}

export function useGrid(): [Grid, (change: Partial<Grid>) => void] {
  const [grid, setGrid] = useState<Grid>(stored);
  useEffect(() => {
    try {
      localStorage.setItem(PLACE, JSON.stringify(grid));
    } catch {
      // private windows may keep nothing: the grid then ends with the page
    }
  }, [grid]);
  return [grid, (change) => setGrid((known) => ({ ...known, ...change }))];
}

function stored(): Grid {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(PLACE) ?? "{}");
    if (isGroup(found) && [found.axes, found.drawn, found.cells].every(Array.isArray)) {
      const grid = found as unknown as Grid;
      if (grid.axes.length === AXES.length) return grid;
    }
  } catch {
    // nothing was kept, or something else wrote there
  }
  return { axes: AXES, drawn: [], cells: [] };
}
