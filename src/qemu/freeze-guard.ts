/**
 * Freezes a guest's file systems for an instant of consistency, and sees to it that they thaw: a helper process
 * (freeze-guard-process.ts) holds the agent's connection meanwhile, and thaws also when this process dies, even by
 * SIGKILL, or takes too long. A guest that stayed frozen would be worse than any snapshot that fails.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { CalotypeError } from '../core/errors.ts';
import { AgentConnection, agentUnavailable, readCount } from './agent-connection.ts';
import type { GuardMessage, ThawOutcome } from './freeze-guard-process.ts';

export type { ThawOutcome } from './freeze-guard-process.ts';

export interface FreezeGuardOptions {
  readonly socketPath: string;
  /** So long after the freeze the file systems are thawed if nobody asked for it before. */
  readonly limitMs: number;
  /** For each answer of the agent. */
  readonly timeoutMs: number;
}

export interface Frozen {
  /** 0 when the guest has none that can be frozen. */
  readonly fileSystems: number;
  readonly durationMs: number;
}

export interface Thawed {
  /**
   * `thawed`: all was frozen until this thaw, and is not any more.
   * `expired`: thawed, but something else had done it before (the limit, somebody in the guest), or may have: what the
   * caller did meanwhile may not be of one instant.
   * `unknown`: the agent did not say in time that it thawed. The helper goes on trying for half a minute.
   */
  readonly outcome: ThawOutcome;
  /** From the order to freeze to the agent's word that it thawed: at least as long as anything in the guest waited. */
  readonly frozenMs: number;
}

/** What the helper may take on a busy host beyond what it waits for the agent. */
const startGraceMs = 10_000;
const answerGraceMs = 2_000;
const closeGraceMs = 1_000;

const extension = import.meta.url.slice(import.meta.url.lastIndexOf('.'));
const helperPath = fileURLToPath(new URL(`./freeze-guard-process${extension}`, import.meta.url));

/** For one freeze and one thaw. Always `close` it. */
export class FreezeGuard {
  readonly #options: FreezeGuardOptions;
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #exited: Promise<unknown>;
  readonly #messages: GuardMessage[] = [];
  readonly #listeners = new Set<() => void>();
  #isDead = false;
  #freezeStart: number | undefined;
  #frozen: Frozen | undefined;
  #thawed: Promise<Thawed> | undefined;

  private constructor(options: FreezeGuardOptions) {
    this.#options = options;
    const { socketPath, limitMs, timeoutMs } = options;
    this.#child = spawn(process.execPath, [helperPath, resolve(socketPath), String(limitMs), String(timeoutMs)], {
      cwd: '/',
      detached: true,
      env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('NODE_'))),
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    this.#child.stdin.on('error', () => undefined);
    createInterface({ input: this.#child.stdout }).on('line', (line) => {
      this.#messages.push(JSON.parse(line));
      this.#wake();
    });
    // `close` comes after the last line was read.
    this.#exited = once(this.#child, 'close')
      .catch(() => undefined)
      .then(() => {
        this.#isDead = true;
        this.#wake();
      });
  }

  /**
   * Starts the helper and lets it reach the agent, so that `freeze` is quick.
   * @throws agent_unavailable, with `details.reason`; nothing is frozen then, and nothing runs
   */
  static async start(options: FreezeGuardOptions): Promise<FreezeGuard> {
    const guard = new FreezeGuard(options);
    const answer = await guard.#next(startGraceMs + 2 * options.timeoutMs, ['ready', 'failed']);
    if (answer?.event === 'ready') return guard;
    guard.#child.kill('SIGKILL');
    await guard.close();
    throw guard.#failureFrom(answer);
  }

  /**
   * Freezes all file systems that can be. Once only.
   * @throws agent_unavailable, with `details.reason`; what may be frozen is thawed again, which may still be going on
   */
  async freeze(): Promise<Frozen> {
    if (this.#freezeStart !== undefined) throw new Error('A FreezeGuard freezes once.');
    this.#freezeStart = performance.now();
    this.#child.stdin.write('freeze\n');
    const answer = await this.#next(this.#options.timeoutMs + answerGraceMs, ['frozen', 'failed']);
    if (answer?.event === 'frozen') {
      this.#frozen = { fileSystems: answer.fileSystems, durationMs: answer.durationMs };
      return this.#frozen;
    }
    if (answer === undefined) {
      // The helper is dead or as good as: it may have left a frozen guest.
      this.#child.kill('SIGKILL');
      await this.#exited;
      await this.#thawDirectly(this.#freezeStart, 0);
    }
    throw this.#failureFrom(answer);
  }

  /** Thaws what `freeze` froze. Called again, it has the same answer. Throws nothing. */
  thaw(): Promise<Thawed> {
    this.#thawed ??= this.#thaw();
    return this.#thawed;
  }

  /** Ends the helper, which thaws first if need be. Idempotent; waits a moment only, as the helper can do without us. */
  async close(): Promise<void> {
    this.#child.stdin.end();
    await Promise.race([this.#exited, delay(closeGraceMs, undefined, { ref: false })]);
    this.#child.stdin.destroy();
    this.#child.stdout.destroy();
    this.#child.unref();
  }

  async #thaw(): Promise<Thawed> {
    if (this.#freezeStart === undefined) return { outcome: 'thawed', frozenMs: 0 };
    const start = this.#freezeStart;
    this.#child.stdin.write('thaw\n');
    const answer = await this.#next(this.#options.timeoutMs + answerGraceMs, ['ended']);
    if (answer?.event === 'ended') return { outcome: answer.outcome, frozenMs: answer.frozenMs };
    if (!this.#isDead) return { outcome: 'unknown', frozenMs: performance.now() - start };
    return this.#thawDirectly(start, this.#frozen?.fileSystems ?? 0);
  }

  /** For a helper that died. It may have thawed before. */
  async #thawDirectly(start: number, fileSystems: number): Promise<Thawed> {
    const { socketPath, timeoutMs } = this.#options;
    let outcome: ThawOutcome = 'unknown';
    try {
      const connection = await AgentConnection.connect(socketPath, timeoutMs);
      try {
        const commands = [{ execute: 'guest-fsfreeze-thaw' }, { execute: 'guest-fsfreeze-status' }];
        const [count, status] = await connection.run(commands, timeoutMs);
        if (status === 'thawed') outcome = readCount(count) > 0 || fileSystems === 0 ? 'thawed' : 'expired';
      } finally {
        connection.close();
      }
    } catch {
      // It stays unknown.
    }
    return { outcome, frozenMs: performance.now() - start };
  }

  /** The first message of these events, past or to come; undefined when the helper ends or the time is over. */
  #next<E extends GuardMessage['event']>(
    timeoutMs: number,
    events: readonly E[],
  ): Promise<Extract<GuardMessage, { event: E }> | undefined> {
    const isWanted = (message: GuardMessage): message is Extract<GuardMessage, { event: E }> =>
      events.some((event) => event === message.event);
    return new Promise((settle) => {
      const finish = (message: Extract<GuardMessage, { event: E }> | undefined): void => {
        clearTimeout(timer);
        this.#listeners.delete(look);
        settle(message);
      };
      const look = (): void => {
        const found = this.#messages.find(isWanted);
        if (found !== undefined || this.#isDead) finish(found);
      };
      const timer = setTimeout(() => finish(undefined), timeoutMs);
      this.#listeners.add(look);
      look();
    });
  }

  #wake(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  #failureFrom(answer: GuardMessage | undefined): CalotypeError {
    if (answer?.event === 'failed') {
      return new CalotypeError('agent_unavailable', answer.message, { reason: answer.reason });
    }
    return agentUnavailable('helper', 'the helper process ended or does not answer');
  }
}
