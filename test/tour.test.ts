/** The guided tour, as `npm run tour` runs it: every fact holds, nothing stays behind, and a failure is an exit code. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const script = join(import.meta.dirname, '../scripts/tour.ts');
let scratch = '';

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'tour-test-'));
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

async function runTour(...args: readonly string[]): Promise<{ code: number | null; output: string }> {
  const { NO_COLOR: _, FORCE_COLOR: __, ...env } = process.env;
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', script, ...args], {
    env: { ...env, TMPDIR: scratch, NO_COLOR: '1', PATH: `${env.PATH}:/usr/sbin:/sbin` },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk;
    });
  }
  const [code] = await once(child, 'close');
  return { code, output };
}

/** Processes whose command line names the tour's directory. */
function leftRunning(): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && name !== String(process.pid))
    .flatMap((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
        return command.includes(scratch) ? [command] : [];
      } catch {
        return [];
      }
    });
}

describe('the tour', () => {
  it('checks every fact and leaves nothing behind', { timeout: 600_000 }, async () => {
    const { code, output } = await runTour();
    expect(output).toMatch(/\n\d+ facts checked in [\d.]+ s\./);
    expect(output).not.toContain('✗');
    expect(code).toBe(0);
    expect(readdirSync(scratch)).toEqual([]);
    expect(leftRunning()).toEqual([]);
  });

  it('ends with exit code 1 when something does not hold', { timeout: 60_000 }, async () => {
    const { code, output } = await runTour('--url', 'http://127.0.0.1:1', '--token', 'none');
    expect(output).toContain('✗');
    expect(code).toBe(1);
    expect(readdirSync(scratch)).toEqual([]);
  });
});
