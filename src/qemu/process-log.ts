/** What a machine's QEMU process says beside its monitor, appended to a file over all runs: its last words, when it dies. */
import { closeSync, openSync, readSync, statSync, truncateSync } from 'node:fs';

const lastWordsBytes = 2000;
/** What a process said before it ended is of no use for long. */
const maxOldBytes = 1024 * 1024;

export class ProcessLog {
  readonly path: string;
  readonly #start: number;

  /** From here on. */
  constructor(path: string) {
    this.path = path;
    if (sizeOf(path) > maxOldBytes) truncateSync(path);
    this.#start = sizeOf(path);
  }

  /** The end of what was said since; '' when nothing was. */
  lastWords(): string {
    const size = sizeOf(this.path);
    const start = Math.max(this.#start, size - lastWordsBytes);
    if (size <= start) return '';
    const file = openSync(this.path, 'r');
    try {
      const words = Buffer.alloc(size - start);
      return words.toString('utf8', 0, readSync(file, words, 0, words.length, start)).trim();
    } finally {
      closeSync(file);
    }
  }
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}
