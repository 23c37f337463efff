/**
 * The helper process of a FreezeGuard (freeze-guard.ts): freezes a guest's file systems and thaws them when told to, when
 * its standard input ends, or when the limit has passed. Alone in its session, so that it outlives a server that dies in any way.
 *
 *     node freeze-guard-process.ts <agent's socket> <limit, ms> <time limit for each answer, ms>
 *     input   lines `freeze` (once), `thaw`; the end
 *     output  lines of JSON: GuardMessage
 */
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { CalotypeError } from '../core/errors.ts';
import {
  AgentConnection,
  type AgentFailure,
  agentUnavailable,
  type FreezeStatus,
  readCount,
  readStatus,
} from './agent-connection.ts';

/** `expired`: not frozen any more when the thaw was asked for. `unknown`: the guest may be frozen still. */
export type ThawOutcome = 'thawed' | 'expired' | 'unknown';

export type GuardMessage =
  | { readonly event: 'ready' }
  | { readonly event: 'failed'; readonly reason: AgentFailure; readonly message: string }
  | { readonly event: 'frozen'; readonly fileSystems: number; readonly durationMs: number }
  | { readonly event: 'ended'; readonly outcome: ThawOutcome; readonly frozenMs: number };

/** For so long a thaw is tried again and again. */
const thawRetryMs = 30_000;
const firstPauseMs = 50;
const longestPauseMs = 500;

const [, , socketPath = '', limitText = '', timeoutText = ''] = process.argv;
const limitMs = Number(limitText);
const timeoutMs = Number(timeoutText);

let connection: AgentConnection | undefined;
/** When the order to freeze left. */
let freezeStart: number | undefined;
let fileSystems = 0;
/** While an answer to it is awaited. */
let freezing: Promise<void> = Promise.resolve();
let isEnding = false;

// The server may be gone: then nobody reads, and there is still a guest to thaw.
process.stdout.on('error', () => undefined);
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => void end('asked'));
// A fault of ours must not leave a frozen guest either.
process.on('uncaughtException', () => void end('asked'));
const input = createInterface({ input: process.stdin });
input.on('line', (line) => {
  if (line === 'freeze' && freezeStart === undefined && !isEnding) freezing = freeze();
  else if (line === 'thaw') void end('asked');
});
input.once('close', () => void end('asked'));

try {
  connection = await AgentConnection.connect(socketPath, timeoutMs);
  const [status] = await connection.run([{ execute: 'guest-fsfreeze-status' }], timeoutMs);
  // Not ours to thaw.
  if (readStatus(status) === 'frozen') throw agentUnavailable('already_frozen', 'its file systems are frozen already');
  say({ event: 'ready' });
} catch (error) {
  sayFailed(error);
  process.exit(1);
}

async function freeze(): Promise<void> {
  freezeStart = performance.now();
  try {
    if (connection === undefined) throw agentUnavailable('lost', 'the connection ended');
    const [count] = await connection.run([{ execute: 'guest-fsfreeze-freeze' }], timeoutMs);
    fileSystems = readCount(count);
    say({ event: 'frozen', fileSystems, durationMs: performance.now() - freezeStart });
    setTimeout(() => void end('limit'), limitMs);
  } catch (error) {
    sayFailed(error);
    // Some may be frozen, and an agent that is only late freezes them yet: the thaw has its place behind that.
    void end('asked');
  }
}

async function end(why: 'asked' | 'limit'): Promise<void> {
  if (isEnding) return;
  isEnding = true;
  await freezing;
  if (freezeStart !== undefined) {
    const held = await thawUntilSure();
    const frozenMs = performance.now() - freezeStart;
    say({ event: 'ended', outcome: outcomeOf(held, why), frozenMs });
  }
  connection?.close();
  process.exit(0);
}

function outcomeOf(held: boolean | undefined, why: 'asked' | 'limit'): ThawOutcome {
  if (held === undefined) return 'unknown';
  if (why === 'limit') return 'expired';
  // A guest without file systems cannot be found frozen.
  return held || fileSystems === 0 ? 'thawed' : 'expired';
}

/**
 * Whether the file systems were frozen until now; undefined when the agent never said that they are thawed.
 * After an attempt without an answer nobody can tell which thaw it was: then they count as not frozen until now.
 */
async function thawUntilSure(): Promise<boolean | undefined> {
  const deadline = performance.now() + thawRetryMs;
  let pauseMs = firstPauseMs;
  for (let isFirst = true; ; isFirst = false) {
    const leftMs = Math.min(timeoutMs, deadline - performance.now());
    if (leftMs <= 0) return undefined;
    try {
      connection ??= await AgentConnection.connect(socketPath, leftMs);
      const { before, count, after } = await thawOnce(connection, leftMs);
      if (after === 'thawed') return isFirst && before === 'frozen' && count > 0;
    } catch (error) {
      // No QEMU, no guest.
      if (reasonOf(error) === 'absent') return undefined;
      connection?.close();
      connection = undefined;
    }
    await delay(pauseMs);
    pauseMs = Math.min(pauseMs * 2, longestPauseMs);
  }
}

async function thawOnce(
  open: AgentConnection,
  leftMs: number,
): Promise<{ before: FreezeStatus; count: number; after: FreezeStatus }> {
  const status = { execute: 'guest-fsfreeze-status' };
  const [before, count, after] = await open.run([status, { execute: 'guest-fsfreeze-thaw' }, status], leftMs);
  return { before: readStatus(before), count: readCount(count), after: readStatus(after) };
}

function say(message: GuardMessage): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function sayFailed(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  say({ event: 'failed', reason: reasonOf(error) ?? 'helper', message });
}

function reasonOf(error: unknown): AgentFailure | undefined {
  return error instanceof CalotypeError && isFailure(error.details.reason) ? error.details.reason : undefined;
}

function isFailure(value: unknown): value is AgentFailure {
  return typeof value === 'string';
}
