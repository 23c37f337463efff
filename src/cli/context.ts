/** What every command gets: the global options, the client, and how to print. One per run of `main`. */
import type { Command } from 'commander';
import { Client } from './client.ts';
import { type ConnectionOptions, findConnection } from './connection.ts';
import { type ExitCode, exitCodes } from './exit-codes.ts';
import { type Io, write } from './io.ts';
import { formatSize } from './sizes.ts';
import { type Column, formatFields, TableWriter } from './table.ts';

export interface GlobalOptions extends ConnectionOptions {
  readonly json?: boolean;
  readonly bytes?: boolean;
  readonly quiet?: boolean;
}

export class Context {
  readonly io: Io;
  /** For outcomes that are no error but say so by their exit code. */
  exitCode: ExitCode = exitCodes.ok;
  private readonly program: Command;
  private opened: Client | null = null;

  constructor(io: Io, program: Command) {
    this.io = io;
    this.program = program;
  }

  get options(): GlobalOptions {
    return this.program.opts<GlobalOptions>();
  }

  get json(): boolean {
    return this.options.json === true;
  }

  /** @throws CliError when no server or token is found; nothing is sent yet */
  get client(): Client {
    this.opened ??= new Client(findConnection(this.options, this.io.env), this.io.interrupted);
    return this.opened;
  }

  close(): void {
    this.opened?.close();
  }

  size(bytes: number | null | undefined): string {
    if (bytes === null || bytes === undefined) return '-';
    return this.options.bytes === true ? String(bytes) : formatSize(bytes);
  }

  async print(text: string): Promise<void> {
    await write(this.io.stdout, text);
  }

  async printJson(value: unknown): Promise<void> {
    await this.print(`${JSON.stringify(value, null, 2)}\n`);
  }

  async printFields(fields: readonly (readonly [string, string | null])[]): Promise<void> {
    await this.print(formatFields(this.io, fields));
  }

  /** Remarks beside the result, on stderr; `--quiet` and `--json` leave them out. */
  note(text: string): void {
    if (this.options.quiet !== true && !this.json) this.io.stderr.write(`${text}\n`);
  }

  /** A list as one JSON array or one table, written page by page. */
  async printList<Row>(
    pages: AsyncIterable<readonly Row[]> | Iterable<readonly Row[]>,
    columns: readonly Column<Row>[],
    emptyNote: string,
  ): Promise<void> {
    let count = 0;
    const table = new TableWriter(this.io, columns);
    for await (const rows of pages) {
      if (rows.length === 0) continue;
      if (this.json) {
        const items = rows.map((row) => JSON.stringify(row, null, 2).replace(/^/gm, '  '));
        await this.print(`${count > 0 ? ',' : '['}\n${items.join(',\n')}`);
      } else {
        await table.add(rows);
      }
      count += rows.length;
    }
    if (this.json) await this.print(count > 0 ? '\n]\n' : '[]\n');
    else if (count === 0) this.note(emptyNote);
  }
}
