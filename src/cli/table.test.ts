import { Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { cut, displayWidth } from './display-width.ts';
import { harmless, type Io, paint } from './io.ts';
import { type Column, formatFields, TableWriter } from './table.ts';

function screen(options: { columns?: number; env?: Record<string, string> } = {}): { io: Io; text: () => string } {
  let text = '';
  const stream = new Writable({
    write(chunk, _encoding, done) {
      text += String(chunk);
      done();
    },
  });
  const stdout = Object.assign(stream, options.columns === undefined ? {} : { isTTY: true, columns: options.columns });
  const io: Io = {
    stdin: process.stdin,
    stdout,
    stderr: stdout,
    env: options.env ?? { NO_COLOR: '1' },
    now: Date.now,
    interrupted: new AbortController().signal,
  };
  return { io, text: () => text };
}

type Row = readonly [string, string];
const columns: readonly Column<Row>[] = [
  { title: 'NAME', value: (row) => row[0], flexible: true },
  { title: 'SIZE', align: 'right', value: (row) => row[1] },
];

describe('displayWidth', () => {
  it.each([
    ['abc', 3],
    ['', 0],
    ['日本', 4],
    ['e\u0301', 1],
    ['👩‍👩‍👧', 2],
    ['🇩🇪', 2],
    ['ｱ', 1],
    ['❤️', 2],
    ['…', 1],
  ])('%s takes %i', (text, width) => {
    expect(displayWidth(text)).toBe(width);
  });

  it('cuts by columns and never inside a character', () => {
    expect(cut('abcdef', 6)).toBe('abcdef');
    expect(cut('abcdef', 4)).toBe('abc…');
    expect(cut('日本語', 4)).toBe('日…');
    expect(cut('👩‍👩‍👧👩‍👩‍👧x', 4)).toBe('👩‍👩‍👧…');
  });
});

describe('TableWriter', () => {
  it('aligns by display width', async () => {
    const { io, text } = screen();
    await new TableWriter(io, columns).add([
      ['data', '10 GiB'],
      ['日本語', '1 B'],
    ]);
    expect(text()).toBe('NAME      SIZE\ndata    10 GiB\n日本語     1 B\n');
  });

  it('keeps within the terminal by cutting flexible columns', async () => {
    const { io, text } = screen({ columns: 24 });
    await new TableWriter(io, columns).add([['a-very-long-name-of-a-drive', '10 GiB']]);
    const lines = text().trimEnd().split('\n');
    expect(lines.map(displayWidth)).toEqual([24, 24]);
    expect(lines[1]).toBe('a-very-long-nam…  10 GiB');
  });

  it('cuts nothing where the output is not a terminal', async () => {
    const { io, text } = screen();
    await new TableWriter(io, columns).add([['x'.repeat(300), '1']]);
    expect(text()).toContain('x'.repeat(300));
  });

  it('prints the head once over several pages', async () => {
    const { io, text } = screen();
    const table = new TableWriter(io, columns);
    await table.add([['one', '1']]);
    await table.add([['two', '2']]);
    expect(text().match(/NAME/g)).toHaveLength(1);
    expect(text().split('\n')[2]).toBe('two      2');
  });

  it('shows terminal escape sequences instead of obeying them', async () => {
    const { io, text } = screen();
    await new TableWriter(io, columns).add([['a\x1b[31mb\nc', '1']]);
    expect(text()).toContain('a\\x1b[31mb\\nc');
  });
});

describe('colours', () => {
  it('are used on a terminal only, and not with NO_COLOR', () => {
    expect(paint(screen({ columns: 80, env: {} }).io, 'red', 'x')).toBe('\x1b[31mx\x1b[39m');
    expect(paint(screen({ columns: 80, env: { NO_COLOR: '1' } }).io, 'red', 'x')).toBe('x');
    expect(paint(screen({ env: {} }).io, 'red', 'x')).toBe('x');
  });
});

it('formats fields, leaving out those without a value', () => {
  expect(
    formatFields(screen().io, [
      ['name', 'data'],
      ['error', null],
      ['size on disk', '1 B'],
    ]),
  ).toBe('name:          data\nsize on disk:  1 B\n');
});

it('keeps other characters as they are', () => {
  expect(harmless('Größe 日本 👍')).toBe('Größe 日本 👍');
});
