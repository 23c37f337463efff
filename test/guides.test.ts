/**
 * Holds the guides to the program: every setting, command, option and doctor finding they name exists, and every one
 * that must be named is. src/http/docs.test.ts does the same for the reference pages.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { PassThrough } from 'node:stream';
import { beforeAll, describe, expect, it } from 'vitest';
import { type CommandShape, describeTree } from '../src/cli/completion.ts';
import { buildProgram } from '../src/cli/program.ts';
import { flagOf, settings, variableOf } from '../src/http/config.ts';

const root = join(import.meta.dirname, '..');
const pages = ['README.md', ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`)].filter((name) =>
  name.endsWith('.md'),
);
const read = (page: string): string => readFileSync(join(root, page), 'utf8');

/** Rows of a Markdown table, as cells without their backquotes. */
function rowsOf(text: string): string[][] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('| '))
    .map((line) => line.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('`', '')))
    .map((cells) => cells.slice(1, -1));
}

describe.each(pages)('%s', (page) => {
  it('links to files that exist', () => {
    const targets = [...read(page).matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)].map(([, target]) => target ?? '');
    const local = targets.filter((target) => !/^[a-z]+:/.test(target));
    expect(local.filter((target) => !existsSync(join(root, dirname(page), target)))).toEqual([]);
  });

  it('names source and test files that exist', () => {
    const named = [...read(page).matchAll(/`((?:src|test|scripts|bench)\/[\w./-]*\.(?:ts|mjs))`/g)].map(
      ([, name]) => name ?? '',
    );
    expect(named.filter((name) => !existsSync(join(root, name)))).toEqual([]);
  });
});

describe('commands in the guides', () => {
  let program: CommandShape;
  beforeAll(async () => {
    const stream = new PassThrough();
    const io = {
      stdin: stream,
      stdout: stream,
      stderr: stream,
      env: {},
      now: () => 0,
      interrupted: new AbortController().signal,
    };
    program = describeTree((await buildProgram(io, null)).program);
  });

  const commands = pages.flatMap((page) => commandsOf(read(page)).map((command) => ({ page, command })));

  it('are found', () => expect(commands.length).toBeGreaterThan(40));

  it.each(commands)('$page: $command', ({ command }) => {
    const words = wordsOf(command);
    if (words[0] === 'serve') {
      const known = ['--config', '--help', '--reset-password', ...settings.map((setting) => flagOf(setting.key))];
      for (const word of words.filter((each) => each.startsWith('--'))) expect(known).toContain(word.split('=')[0]);
      return;
    }
    const positionals: string[] = [];
    let shape = program;
    const flags = new Map(program.flags.flatMap((flag) => flag.names.map((name) => [name, flag] as const)));
    for (let at = 0; at < words.length; at++) {
      const word = words[at] ?? '';
      if (word.startsWith('-') && word !== '-') {
        // An option may stand before the verb that it belongs to, so the verb is looked for first.
        for (const flag of shape.flags) for (const name of flag.names) flags.set(name, flag);
        const flag = flags.get(word);
        expect(flag, `${word} of ${shape.path}`).toBeDefined();
        if (flag?.value !== null) at++;
        continue;
      }
      const child = shape.subcommands.find((each) => each.path.split(' ').at(-1) === word);
      if (child !== undefined && positionals.length === 0) shape = child;
      else positionals.push(word);
    }
    expect(shape.subcommands, `${shape.path} needs a verb`).toEqual([]);
    if (!shape.isVariadic) expect(positionals.length, positionals.join(', ')).toBeLessThanOrEqual(shape.args.length);
  });
});

/** What a shell would run as `calotype …` in the code blocks of a page, and in line. */
function commandsOf(text: string): string[] {
  const blocks = [...text.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map(([, block]) => block ?? '');
  const lines = blocks.flatMap((block) => block.replaceAll('\\\n', ' ').split('\n'));
  const inline = [...text.matchAll(/`(calotype [a-z][^`]*)`/g)].map(([, command]) => command ?? '');
  return [...lines.map((line) => line.trim()), ...inline]
    .filter((line) => line.startsWith('calotype ') && !line.includes('…') && !line.includes('|'))
    .map((line) => line.replace(/\s+#\s.*$/, ''));
}

/** Splits as a shell does: quotes and spaces, nothing more. */
function wordsOf(command: string): string[] {
  return [...command.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g)].map(([word]) => word.replace(/['"]/g, '')).slice(1);
}

describe('docs/operations.md', () => {
  const page = read('docs/operations.md');

  it('lists every setting with its flag, variable, key and default', () => {
    const section = page.split(/^## /m).find((part) => part.startsWith('Settings\n')) ?? '';
    const listed = rowsOf(section).slice(2);
    const expected = settings.map(({ key, fallback }) => [flagOf(key), variableOf(key), key, shown(key, fallback)]);
    expect(listed.map((row) => row.slice(0, 4))).toEqual(expected);
  });

  it('explains every finding of the doctor, and no other', () => {
    const sources = read('src/engine/qcow2/doctor.ts') + read('src/service/memory-doctor.ts');
    const lines = sources.match(/\bcode: .*/g) ?? [];
    const codes = lines.flatMap((line) => [...line.matchAll(/\bcode: (.*?)[,}]/g)].map(([, code]) => code ?? ''));
    const known = [...new Set(codes.flatMap((code) => [...code.matchAll(/'(\w+)'/g)].map(([, name]) => name ?? '')))];
    const section = page.split(/^## /m).find((part) => part.startsWith('What the doctor finds\n')) ?? '';
    const explained = rowsOf(section)
      .slice(2)
      .map(([code]) => code);
    expect(explained.toSorted()).toEqual(known.toSorted());
  });
});

/** A default as people write it. */
function shown(key: string, fallback: unknown): string {
  if (key === 'data') return './data';
  if (fallback === undefined || (Array.isArray(fallback) && fallback.length === 0)) return 'none';
  if (typeof fallback !== 'number' || !key.endsWith('Bytes')) return String(fallback);
  const units = { TiB: 1024 ** 4, GiB: 1024 ** 3, MiB: 1024 ** 2 };
  const unit = Object.entries(units).find(([, bytes]) => fallback % bytes === 0 && fallback / bytes < 1024);
  return unit === undefined ? String(fallback) : `${fallback / unit[1]}${unit[0]}`;
}
