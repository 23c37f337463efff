/** Tables and property sheets for people: aligned by display width, cut to the terminal's width, no frames. */
import { cut, displayWidth } from './display-width.ts';
import { harmless, type Io, paint, write } from './io.ts';

export interface Column<Row> {
  readonly title: string;
  readonly value: (row: Row) => string;
  readonly align?: 'right';
  /** May be cut when the terminal is narrow. */
  readonly flexible?: boolean;
  readonly format?: (row: Row) => Parameters<typeof paint>[1] | null;
}

const gap = '  ';
const leastFlexibleWidth = 8;

/** Prints rows as they arrive, page by page; the first page decides the widths. */
export class TableWriter<Row> {
  private readonly io: Io;
  private readonly columns: readonly Column<Row>[];
  private widths: readonly number[] | null = null;
  constructor(io: Io, columns: readonly Column<Row>[]) {
    this.io = io;
    this.columns = columns;
  }

  async add(rows: readonly Row[]): Promise<void> {
    const cells = rows.map((row) => this.columns.map((column) => harmless(column.value(row))));
    let text = '';
    if (this.widths === null) {
      const limit = this.io.stdout.isTTY === true ? (this.io.stdout.columns ?? 80) : Number.POSITIVE_INFINITY;
      this.widths = fitWidths(this.columns, cells, limit);
      const head = this.line(this.columns.map((column) => column.title));
      text += `${paint(this.io, 'bold', head)}\n`;
    }
    rows.forEach((row, index) => {
      text += `${this.line(cells[index] ?? [], row)}\n`;
    });
    await write(this.io.stdout, text);
  }

  private line(cells: readonly string[], row?: Row): string {
    const last = this.columns.length - 1;
    const parts = this.columns.map((column, index) => {
      const width = this.widths?.[index] ?? 0;
      const text = cut(cells[index] ?? '', width);
      const space = ' '.repeat(Math.max(0, width - displayWidth(text)));
      const format = row === undefined ? null : (column.format?.(row) ?? null);
      const painted = format === null ? text : paint(this.io, format, text);
      if (column.align === 'right') return space + painted;
      return index === last ? painted : painted + space;
    });
    return parts.join(gap).trimEnd();
  }
}

function fitWidths<Row>(
  columns: readonly Column<Row>[],
  cells: readonly (readonly string[])[],
  limit: number,
): number[] {
  const widths = columns.map((column, index) =>
    Math.max(displayWidth(column.title), ...cells.map((row) => displayWidth(row[index] ?? ''))),
  );
  let excess = widths.reduce((sum, width) => sum + width, 0) + gap.length * (columns.length - 1) - limit;
  while (excess > 0) {
    // The widest flexible column gives way, one step at a time, so that several end up about equal.
    let widest = -1;
    columns.forEach((column, index) => {
      const width = widths[index] ?? 0;
      if (column.flexible === true && width > leastFlexibleWidth && width > (widths[widest] ?? 0)) widest = index;
    });
    if (widest < 0) break;
    widths[widest] = (widths[widest] ?? 0) - 1;
    excess--;
  }
  return widths;
}

/** `name:  value` lines; fields whose value is null are left out. */
export function formatFields(io: Io, fields: readonly (readonly [string, string | null])[]): string {
  const width = Math.max(0, ...fields.filter(([, value]) => value !== null).map(([name]) => displayWidth(name)));
  let text = '';
  for (const [name, value] of fields) {
    if (value === null) continue;
    text += `${paint(io, 'dim', `${name}:`)}${' '.repeat(width - displayWidth(name) + 2)}${harmless(value)}`.trimEnd();
    text += '\n';
  }
  return text;
}
