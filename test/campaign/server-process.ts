/** Starts, arms and kills the server under campaign, and knows its storage daemon. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, readFileSync, type WriteStream } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Access } from './api.ts';
import { type Arm, armVariable, daemonPidOf, isDead, traceVariable } from './arm.ts';

const readyDeadlineMs = 40_000;
const program = fileURLToPath(new URL('server.ts', import.meta.url));

export class ServerProcess {
  /** Data directory of the server. */
  readonly data: string;
  readonly logPath: string;
  readonly tracePath: string;
  readonly #log: WriteStream;
  readonly #flags: readonly string[];
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  /** Calls back when a step it was armed for was passed. */
  onHit: ((step: string) => void) | undefined;

  constructor(data: string, logDirectory: string, flags: readonly string[] = []) {
    this.data = data;
    this.#flags = flags;
    this.logPath = join(logDirectory, 'server.log');
    this.tracePath = join(logDirectory, 'steps.log');
    this.#log = createWriteStream(this.logPath, { flags: 'a' });
  }

  get alive(): boolean {
    return this.#child !== undefined;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** Resolves when it has ended, however. */
  get exited(): Promise<void> {
    return this.#exited;
  }

  daemonPid(): number {
    return daemonPidOf(this.data);
  }

  /** Starts it. Resolves with its address once it is ready, or null when it died first. */
  async start(arm?: Arm): Promise<Access | null> {
    this.#log.write('--- start\n');
    const child = spawn(
      process.execPath,
      [
        '--disable-warning=ExperimentalWarning',
        program,
        ...['--data', this.data, '--port-base', '0', '--reserve-bytes', '0', '--min-free-bytes', '16MiB'],
        ...['--high-water-percent', '100', ...this.#flags],
      ],
      {
        stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
        env: {
          ...process.env,
          [traceVariable]: this.tracePath,
          ...(arm === undefined ? {} : { [armVariable]: JSON.stringify(arm) }),
        },
      },
    );
    this.#child = child;
    const { promise: exited, resolve: onExit } = Promise.withResolvers<void>();
    this.#exited = exited;
    child.once('exit', (code, signal) => {
      this.#child = undefined;
      this.#log.write(`--- ended: ${signal ?? code}\n`);
      onExit();
    });
    child.on('message', (message: { hit?: string }) => {
      if (message.hit !== undefined) this.onHit?.(message.hit);
    });
    child.on('error', () => undefined);
    const { promise: ready, resolve: onReady } = Promise.withResolvers<string>();
    let text = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      this.#log.write(chunk);
      if (text.length > 100_000) return;
      text += chunk.toString();
      const url = /^ +native +(\S+)\/v1$/m.exec(text)?.[1];
      if (url !== undefined && /is ready after/.test(text)) onReady(url);
    });
    child.stderr?.on('data', (chunk: Buffer) => this.#log.write(chunk));
    const deadline = new AbortController();
    const url = await Promise.race([
      ready,
      exited.then(() => null),
      sleep(readyDeadlineMs, undefined, { signal: deadline.signal }).then(
        () => undefined,
        () => null,
      ),
    ]);
    deadline.abort();
    if (url === undefined) throw new Error(`the server was not ready within ${readyDeadlineMs / 1000} s`);
    return url === null ? null : { url, token: this.#token() };
  }

  #token(): string {
    const access: { token: string } = JSON.parse(readFileSync(join(this.data, 'access.json'), 'utf8'));
    return access.token;
  }

  /** The last line of the trace of steps. */
  lastStep(): string {
    return readFileSync(this.tracePath, 'utf8').trimEnd().split('\n').at(-1) ?? '';
  }

  arm(arm: Arm | null): void {
    this.#child?.send({ arm }, () => undefined);
  }

  async kill(): Promise<void> {
    this.#child?.kill('SIGKILL');
    await this.#exited;
  }

  /** An orderly end. */
  async stop(): Promise<void> {
    this.#child?.kill('SIGTERM');
    await this.#exited;
  }

  /** Kills the storage daemon. Returns once it can do nothing any more. */
  async killDaemon(): Promise<boolean> {
    const pid = this.daemonPid();
    if (isDead(pid)) return false;
    process.kill(pid, 'SIGKILL');
    while (!isDead(pid)) await sleep(1);
    return true;
  }

  closeLog(): void {
    this.#log.end();
  }
}
