import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { aDrive, FakeApi, runCli } from '../../test/fake-native-api.ts';
import { allCommands, type CommandShape, describeTree } from './completion.ts';
import { exitCodeMeanings } from './exit-codes.ts';
import { buildProgram } from './program.ts';

let tree: CommandShape;
let directory: string;
beforeAll(async () => {
  const io = {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: {},
    now: Date.now,
    interrupted: new AbortController().signal,
  };
  tree = describeTree((await buildProgram(io, null)).program);
  directory = mkdtempSync(join(tmpdir(), 'calotype-completion-'));
  for (const shell of ['bash', 'zsh', 'fish'])
    writeFileSync(join(directory, shell), (await runCli(['completion', shell])).stdout);
  // Stands for the program: knows two drives, and shows how it was asked.
  writeFileSync(
    join(directory, 'calotype'),
    '#!/bin/sh\necho "$@" >> "$(dirname "$0")/asked"\nprintf "data\\nmy drive\\nother\\n"\n',
  );
  chmodSync(join(directory, 'calotype'), 0o755);
});
afterAll(() => rmSync(directory, { recursive: true }));

/** Every command with its own words, without the groups that only hold others. */
const leaves = () => allCommands(tree).filter((shape) => shape.path !== '' && shape.subcommands.length === 0);

describe('the command tree', () => {
  it('holds every noun and verb of the API', () => {
    const paths = leaves().map((shape) => shape.path);
    expect(paths).toEqual(
      expect.arrayContaining([
        'drive create',
        'drive import',
        'machine create',
        'machine log',
        'machine tree',
        'snapshot tree',
        'export close',
        'task limit',
        'event follow',
        'doctor',
        'space',
        'tls self-signed',
        'serve',
      ]),
    );
    expect(paths.length).toBeGreaterThan(70);
  });

  it('is in docs/cli.md, command by command, with every exit code', () => {
    const docs = readFileSync(new URL('../../docs/cli.md', import.meta.url), 'utf8');
    for (const { path } of leaves()) expect(docs, path).toMatch(new RegExp(`\`${path}[ \`]`));
    for (const [code, meaning] of exitCodeMeanings) expect(docs).toContain(`| ${code} | ${meaning} |`);
    for (const flag of tree.flags.flatMap((each) => each.names)) expect(docs, flag).toContain(flag);
  });

  it('documents no command that does not exist', () => {
    const docs = readFileSync(new URL('../../docs/cli.md', import.meta.url), 'utf8');
    const known = new Set(leaves().map((shape) => shape.path));
    const rows = [...docs.matchAll(/^\| `([a-z]+(?: [a-z-]+)?)/gm)].map((match) => match[1] ?? '');
    expect(rows.length).toBeGreaterThan(70);
    expect(rows.filter((path) => !known.has(path))).toEqual([]);
  });
});

describe.each(['bash', 'zsh', 'fish'])('the script for %s', (shell) => {
  it('holds every command and every flag', () => {
    const script = readFileSync(join(directory, shell), 'utf8');
    for (const shape of leaves()) {
      const words = shape.path.split(' ');
      expect(script, shape.path).toContain(
        shell === 'fish' ? `'__calotype_at 0 ${words.slice(0, -1).join(' ')}' -a ${words.at(-1)}` : `'${shape.path}')`,
      );
      for (const flag of shape.flags.flatMap((each) => each.names))
        expect(script, flag).toContain(
          shell === 'fish' ? flag.replace(/^--/, '-l ').replace(/^-(?=\w$)/, '-s ') : flag,
        );
    }
  });
});

/** What bash offers after the last of `words`. */
function bash(...words: string[]): string[] {
  const script = `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _calotype; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const output = execFileSync(
    'bash',
    ['--norc', '-c', script, 'bash', join(directory, 'bash'), join(directory, 'calotype'), ...words],
    { encoding: 'utf8' },
  );
  return output.split('\n').filter((line) => line !== '');
}

describe('bash', () => {
  it('completes nouns, verbs and flags', () => {
    expect(bash('dr')).toEqual(['drive']);
    expect(bash('snapshot', 'tr')).toEqual(['tree']);
    expect(bash('--json', '--data', 'drive', 'task', 'lim')).toEqual(['limit']);
    expect(bash('drive', 'create', '--refuse')).toEqual(['--refuse-existing-name']);
    expect(bash('drive', 'create', '--js')).toEqual(['--json']);
  });

  it('completes words that an option takes', () => {
    expect(bash('drive', 'delete', 'x', '--snapshots', '')).toEqual(['refuse', 'keep', 'delete']);
    expect(bash('grant', 'create', 'ann', 'r')).toEqual(['ro', 'rw']);
    expect(bash('completion', '')).toEqual(['bash', 'zsh', 'fish']);
  });

  it('completes objects by name through the program, on the same server', () => {
    expect(bash('--data', '/srv', 'drive', 'show', '')).toEqual(['data', 'my\\ drive', 'other']);
    expect(readFileSync(join(directory, 'asked'), 'utf8').trimEnd().split('\n').at(-1)).toBe(
      '--data /srv completion names drive',
    );
    expect(bash('snapshot', 'create', 'data', 'oth')).toEqual(['other']);
    expect(bash('snapshot', 'list', '--drive', 'd')).toEqual(['data']);
    expect(bash('snapshot', 'create', '--machine', 'd')).toEqual(['data']);
    expect(bash('machine', 'attach', 'data', 'oth')).toEqual(['other']);
    expect(bash('drive', 'create', '')).toEqual([]);
  });

  it('completes files', () => {
    expect(bash('drive', 'import', `${directory}/fi`)).toEqual([`${directory}/fish`]);
  });
});

describe('completion names', () => {
  it('prints names, or ids of what has none', async () => {
    await using api = await FakeApi.start();
    api.on('GET /drives', { items: [aDrive({ name: 'a' }), aDrive({ name: 'b c' })], nextCursor: null });
    api.on('GET /exports', { items: [{ id: 'e1' }] });
    expect((await runCli(['completion', 'names', 'drive'], { api })).stdout).toBe('a\nb c\n');
    expect((await runCli(['completion', 'names', 'export'], { api })).stdout).toBe('e1\n');
  });

  it('says nothing when there is no server, or no such kind', async () => {
    const flags = ['--url', 'http://127.0.0.1:1', '--token', 't'];
    expect(await runCli(['completion', 'names', 'drive', ...flags])).toEqual({ code: 0, stdout: '', stderr: '' });
    expect(await runCli(['completion', 'names', 'nonsense', ...flags])).toEqual({ code: 0, stdout: '', stderr: '' });
  });
});
