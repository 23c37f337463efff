/** Where a command reads and writes: the process in real life, buffers in tests. Colours and widths are decided here. */
import type { Readable, Writable } from 'node:stream';
import { styleText } from 'node:util';

type Format = Parameters<typeof styleText>[0];

export interface Io {
  readonly stdin: Readable & { readonly isTTY?: boolean };
  readonly stdout: Writable & { readonly isTTY?: boolean; readonly columns?: number };
  readonly stderr: Writable & { readonly isTTY?: boolean; readonly columns?: number };
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Aborted by Ctrl-C and the like; the reason is the name of the signal. */
  readonly interrupted: AbortSignal;
}

export function paint(io: Io, format: Format, text: string): string {
  const wanted = io.stdout.isTTY === true && !io.env.NO_COLOR && io.env.TERM !== 'dumb';
  return wanted ? styleText(format, text, { validateStream: false }) : text;
}

/** A terminal in raw mode hands over every key as it is pressed, Ctrl-C too, and shows none. */
export function setRawMode({ stdin }: Io, on: boolean): void {
  if ('setRawMode' in stdin && typeof stdin.setRawMode === 'function') stdin.setRawMode(on);
}

/** Text of others may hold terminal escape sequences; they are shown, not obeyed. */
export function harmless(text: string): string {
  return text.replace(/\p{Cc}/gu, (character) => {
    if (character === '\n') return '\\n';
    if (character === '\t') return '\\t';
    return `\\x${(character.codePointAt(0) ?? 0).toString(16).padStart(2, '0')}`;
  });
}

/** Resolves once the stream has room again, so that a slow reader does not make us hold everything. */
export async function write(stream: Writable, text: string | Uint8Array): Promise<void> {
  if (stream.write(text)) return;
  await new Promise<void>((resolve) => {
    const done = () => {
      stream.off('drain', done);
      stream.off('close', done);
      stream.off('error', done);
      resolve();
    };
    stream.on('drain', done);
    stream.on('close', done);
    stream.on('error', done);
  });
}
