/** How a caller's wishes reach work that is not a QEMU job: between steps, and for tools that run as processes. */
import { setTimeout as delay } from 'node:timers/promises';
import type { RunOptions } from '../../qemu/image-tools.ts';
import type { WorkControl } from '../engine.ts';
import { assertNotAborted } from './context.ts';

const askEveryMs = 200;

/** Waits while the work is to be paused. @throws cancelled */
export async function untilWanted(control: WorkControl): Promise<void> {
  while (control.wishes().paused && !control.signal.aborted) {
    await delay(askEveryMs, undefined, { signal: control.signal }).catch(() => undefined);
  }
  assertNotAborted(control.signal);
}

/**
 * Runs a tool under the caller's control: stopped while paused, and stopped in turns where it is faster than wanted. A
 * `signal` of its own, if given, ends it like the caller's.
 */
export async function steered<T>(
  control: WorkControl,
  work: (options: RunOptions) => Promise<T>,
  signal: AbortSignal = control.signal,
): Promise<T> {
  await untilWanted(control);
  let send: ((name: NodeJS.Signals) => void) | undefined;
  let stopped = false;
  let doneBytes = 0;
  let allowedBytes = 0;
  let lastMs = performance.now();
  const steer = (): void => {
    const { paused, bytesPerSecond } = control.wishes();
    const now = performance.now();
    if (!paused) allowedBytes += (bytesPerSecond * (now - lastMs)) / 1000;
    lastMs = now;
    const tooFast = bytesPerSecond > 0 && doneBytes > allowedBytes;
    if (bytesPerSecond === 0) allowedBytes = doneBytes;
    if (send === undefined || stopped === (paused || tooFast)) return;
    stopped = !stopped;
    send(stopped ? 'SIGSTOP' : 'SIGCONT');
  };
  const timer = setInterval(steer, askEveryMs);
  try {
    return await work({
      signal,
      onStart: (signalChild) => {
        send = signalChild;
        stopped = false;
      },
      onProgress: (done, total) => {
        doneBytes = done;
        control.progress(done, total);
        steer();
      },
    });
  } finally {
    clearInterval(timer);
  }
}
