/**
 * A server that dies: a process that opens the engine, carries one operation out, and is killed, by itself with SIGKILL,
 * at the step it was told to die at. Started ahead, it waits for its order. What it did is found by whoever opens next.
 */
import { Catalog } from '../../catalog/catalog.ts';
import type { EngineHarness } from './harness.ts';
import { type Operation, perform } from './operations.ts';

export interface Order {
  readonly dataDirectory: string;
  readonly operation: Operation;
  readonly name: string;
  /** Dies when it comes to the step of this number, counted from 0; null: lives to the end. */
  readonly dieAt: number | null;
}

export type Report = { readonly kind: 'ready' } | { readonly kind: 'done'; steps: string[]; failure: string | null };

const [, , moduleUrl = ''] = process.argv;
const { harness }: { harness: EngineHarness } = await import(moduleUrl);

process.once('message', (order: Order) => {
  void carryOut(order);
});
process.once('disconnect', () => process.exit(0));
tell({ kind: 'ready' });

async function carryOut({ dataDirectory, operation, name, dieAt }: Order): Promise<void> {
  const steps: string[] = [];
  let counting = false;
  const catalog = await Catalog.open(dataDirectory);
  const engine = harness.make({
    catalog,
    dataDirectory,
    minFreeBytes: 0,
    logger: { info: () => undefined, warn: () => undefined },
    onStep: (step) => {
      if (!counting) return;
      if (steps.length === dieAt) process.kill(process.pid, 'SIGKILL');
      steps.push(step);
    },
  });
  let failure: string | null = null;
  try {
    await engine.open();
    counting = true;
    await perform(engine, operation, name);
  } catch (error) {
    failure = String(error);
  }
  // Ends what is done behind: its steps count too.
  await engine.close();
  await catalog.close();
  tell({ kind: 'done', steps, failure });
  process.disconnect();
}

function tell(report: Report): void {
  process.send?.(report);
}
