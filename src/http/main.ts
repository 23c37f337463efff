/** `calotype serve`, as bin/calotype calls it. Imports nothing big by itself: where libraries come from is settled first. */
import type { Seams } from './assemble.ts';
import { useBundledLibraries } from './bundled-libraries.ts';

export async function serve(argv: readonly string[], seams?: Seams): Promise<void> {
  useBundledLibraries();
  const { runServer } = await import('./serve.ts');
  await runServer(argv, seams);
}
