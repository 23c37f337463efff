/** Passwords come from standard input or an unseen prompt, never from the command line, where `ps` would show them. */
import { randomInt } from 'node:crypto';
import { InterruptedError, usageError } from './errors.ts';
import { type Io, setRawMode } from './io.ts';

/** Letters and digits that are not mistaken for one another; 24 of them hold some 138 bits. */
const alphabet = 'abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789';

export function makePassword(): string {
  return Array.from({ length: 24 }, () => alphabet[randomInt(alphabet.length)] ?? '').join('');
}

/** The first line of standard input. */
export async function readPasswordFromStdin(io: Io): Promise<string> {
  return (await readLines(io, 1))[0] ?? '';
}

/** Up to `count` lines, without their ends. */
export async function readLines(io: Io, count: number): Promise<string[]> {
  let text = '';
  for await (const chunk of io.stdin) {
    text += String(chunk);
    if (text.split('\n').length > count) break;
  }
  const lines = text.split('\n').map((line) => line.replace(/\r$/, ''));
  if (text === '') throw usageError('Standard input is empty; a password was expected there.');
  return lines.slice(0, count);
}

/** Asks on the terminal without echo, twice when `repeat`. */
export async function askPassword(io: Io, prompt: string, repeat: boolean): Promise<string> {
  if (io.stdin.isTTY !== true)
    throw usageError('There is no terminal to ask for the password.', 'Send it to --password-stdin.');
  const password = await askUnseen(io, `${prompt}: `);
  if (repeat && (await askUnseen(io, `${prompt}, again: `)) !== password) throw usageError('The two passwords differ.');
  return password;
}

async function askUnseen(io: Io, prompt: string): Promise<string> {
  const { stdin } = io;
  io.stderr.write(prompt);
  setRawMode(io, true);
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let text = '';
  const onData = (chunk: Buffer | string) => {
    for (const character of String(chunk)) {
      if (character === '\r' || character === '\n') return resolve(text);
      if (character === '\u0003' || character === '\u0004') return reject(new InterruptedError());
      if (character === '\u007f' || character === '\b') text = [...text].slice(0, -1).join('');
      else if (character >= ' ') text += character;
    }
  };
  stdin.on('data', onData);
  try {
    return await promise;
  } finally {
    stdin.off('data', onData);
    stdin.pause();
    setRawMode(io, false);
    io.stderr.write('\n');
  }
}
