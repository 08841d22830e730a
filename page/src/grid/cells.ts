// The cells of a grid of two axes.

export interface Axis {
  field: string;
  values: string;
}

/** The values of an axis; a comma within quotation marks belongs to its value. */
export function valuesOf(text: string): string[] {
  const found = text.match(/"[^"]*"|[^,]+/g) ?? [];
  return found.map((v) => v.trim().replace(/^"(.*)"$/, "$1")).filter((v) => v !== "");
}

/** Every row with every column. */
export function cellsOf(rows: Axis, columns: Axis): [string, string][] {
  return valuesOf(rows.values).flatMap((row) =>
    valuesOf(columns.values).map((column): [string, string] => [row, column]),
  );
}
