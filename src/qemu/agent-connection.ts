/**
 * One connection to qemu-ga, the agent inside a guest, over its unix socket. The agent is trusted with nothing: it may be
 * absent, silent or send rubbish, so that every call has a time limit and ends in an answer or in `agent_unavailable`.
 * QEMU lets one client at a time through; the others wait, until their time limit.
 * Source: QEMU docs/interop/qemu-ga-ref (qga/qapi-schema.json): one JSON object per line, answers in order, no ids.
 */
import { connect, type Socket } from 'node:net';
import { CalotypeError } from '../core/errors.ts';

export type FreezeStatus = 'thawed' | 'frozen';

export interface AgentCommand {
  readonly execute: string;
  readonly arguments?: Readonly<Record<string, unknown>>;
}

/** Why an agent could not be used; `details.reason` of `agent_unavailable`. */
export type AgentFailure =
  /** Nobody listens: there is no such machine, or it is off. */
  | 'absent'
  /** QEMU took the connection, and then nothing came in time: no agent runs, it hangs, or another client has it. */
  | 'silent'
  /** The connection ended before the answer. */
  | 'lost'
  /** What came is no answer. */
  | 'garbled'
  /** The agent said no. */
  | 'refused'
  /** Somebody else has frozen the file systems. */
  | 'already_frozen'
  /** The helper process of a FreezeGuard could not do its work. */
  | 'helper';

export function agentUnavailable(reason: AgentFailure, why: string, cause?: unknown): CalotypeError {
  return new CalotypeError('agent_unavailable', `The guest agent cannot be used: ${why}.`, { reason }, { cause });
}

const mostLineBytes = 1024 * 1024;
const mostLines = 1000;
const mostReasonChars = 500;
/** Ends whatever is half sent, in both directions: it occurs in no UTF-8 text. */
const delimiter = 0xff;
const newline = 0x0a;

interface Waiting {
  readonly resolve: (line: Buffer) => void;
  readonly reject: (error: CalotypeError) => void;
}

/** One connection. Not for more than one `run` at a time. */
export class AgentConnection {
  readonly #socket: Socket;
  #buffer = Buffer.alloc(0);
  #lines: Buffer[] = [];
  #waiting: Waiting | undefined;
  #failure: CalotypeError | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (data: Buffer) => this.#read(data));
    socket.on('error', (error) => this.#fail(agentUnavailable('lost', error.message, error)));
    socket.on('close', () => this.#fail(agentUnavailable('lost', 'the connection ended')));
  }

  /** Connects to QEMU, which says nothing about the agent. @throws agent_unavailable */
  static async connect(socketPath: string, timeoutMs: number): Promise<AgentConnection> {
    const socket = connect({ path: socketPath });
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        socket.destroy();
        reject(agentUnavailable('silent', `no connection to ${socketPath} within ${timeoutMs} ms`));
      }, timeoutMs);
      socket.once('connect', () => {
        clearTimeout(timer);
        resolve();
      });
      socket.once('error', (cause: NodeJS.ErrnoException) => {
        clearTimeout(timer);
        // EAGAIN: others wait for the agent already, as many as fit.
        const isBusy = cause.code === 'EAGAIN';
        const why = isBusy ? `too many wait at ${socketPath}` : `nobody listens on ${socketPath}`;
        reject(agentUnavailable(isBusy ? 'silent' : 'absent', why, cause));
      });
    });
    return new AgentConnection(socket);
  }

  /**
   * Runs commands and resolves with what each returned. They leave in one write behind a resynchronisation, which skips
   * what earlier clients or calls left unread. One that the agent refuses rejects; the agent runs those after it too.
   * @param timeoutMs for all of them
   * @throws agent_unavailable; after `silent`, commands may yet run
   */
  async run(commands: readonly AgentCommand[], timeoutMs: number): Promise<unknown[]> {
    const deadline = performance.now() + timeoutMs;
    await this.#synchronise(commands, deadline);
    const answers: unknown[] = [];
    let refusal: CalotypeError | undefined;
    for (const { execute } of commands) {
      const answer = parseAnswer(await this.#line(deadline));
      if (answer === undefined) throw agentUnavailable('garbled', `its answer to ${execute} makes no sense`);
      if ('error' in answer) refusal ??= agentUnavailable('refused', `it refused ${execute}: ${answer.error}`);
      else answers.push(answer.returned);
    }
    if (refusal !== undefined) throw refusal;
    return answers;
  }

  /** Runs a command that is answered only when it fails. Resolves once the agent has had it; no sign of a failure is a success. */
  async runUnanswered(command: AgentCommand, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    // The ping's answer shows that the command's failed to come.
    await this.#synchronise([command, { execute: 'guest-ping' }], deadline);
    const line = await this.#line(deadline).catch(() => undefined);
    const answer = line && parseAnswer(line);
    if (answer !== undefined && 'error' in answer) {
      throw agentUnavailable('refused', `it refused ${command.execute}: ${answer.error}`);
    }
  }

  close(): void {
    this.#socket.destroy();
    this.#fail(agentUnavailable('lost', 'the connection was closed'));
  }

  /** The agent answers guest-sync-delimited with our number behind a delimiter: all before that is old. */
  async #synchronise(commands: readonly AgentCommand[], deadline: number): Promise<void> {
    const id = Math.floor(Math.random() * 2 ** 31);
    const sync: AgentCommand = { execute: 'guest-sync-delimited', arguments: { id } };
    const text = [sync, ...commands].map((command) => `${JSON.stringify(command)}\n`).join('');
    this.#socket.write(Buffer.concat([Buffer.of(delimiter), Buffer.from(text)]));
    for (;;) {
      const line = await this.#line(deadline);
      const start = line.lastIndexOf(delimiter);
      if (start < 0) continue;
      const answer = parseAnswer(line.subarray(start + 1));
      if (answer !== undefined && 'returned' in answer && answer.returned === id) return;
    }
  }

  #line(deadline: number): Promise<Buffer> {
    const next = this.#lines.shift();
    if (next !== undefined) return Promise.resolve(next);
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    return new Promise<Buffer>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting = undefined;
        reject(agentUnavailable('silent', 'it does not answer in time'));
      }, deadline - performance.now());
      this.#waiting = {
        resolve: (line) => {
          clearTimeout(timer);
          resolve(line);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
    });
  }

  #read(data: Buffer): void {
    this.#buffer = Buffer.concat([this.#buffer, data]);
    for (let end = this.#buffer.indexOf(newline); end >= 0; end = this.#buffer.indexOf(newline)) {
      const line = this.#buffer.subarray(0, end);
      this.#buffer = this.#buffer.subarray(end + 1);
      const waiting = this.#waiting;
      this.#waiting = undefined;
      if (waiting === undefined) this.#lines.push(line);
      else waiting.resolve(line);
    }
    if (this.#buffer.length > mostLineBytes || this.#lines.length > mostLines) {
      this.#fail(agentUnavailable('garbled', 'it sends without end'));
      this.#socket.destroy();
    }
  }

  #fail(error: CalotypeError): void {
    this.#failure ??= error;
    this.#waiting?.reject(error);
    this.#waiting = undefined;
  }
}

/** Undefined when it is no answer. */
function parseAnswer(line: Buffer): { readonly returned: unknown } | { readonly error: string } | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line.toString('utf8'));
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  if ('return' in value) return { returned: value.return };
  if (!('error' in value) || typeof value.error !== 'object' || value.error === null) return undefined;
  const description = 'desc' in value.error ? value.error.desc : undefined;
  return { error: typeof description === 'string' ? description.slice(0, mostReasonChars) : 'without a reason' };
}

export function readStatus(answer: unknown): FreezeStatus {
  if (answer === 'thawed' || answer === 'frozen') return answer;
  throw agentUnavailable('garbled', 'its freeze status makes no sense');
}

export function readCount(answer: unknown): number {
  if (typeof answer === 'number' && Number.isInteger(answer) && answer >= 0) return answer;
  throw agentUnavailable('garbled', 'its number of file systems makes no sense');
}
