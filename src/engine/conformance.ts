/**
 * The conformance suite: one set of behaviours that any engine must show, whatever it is made of. An engine's test calls
 * `describeEngine` with its harness. Where engines differ in ability, a capability flag says so, and the test asserts the
 * refusal instead. Drives are written and read only over NBD, as their users do.
 */
import { describe } from 'vitest';
import { testClones } from './conformance/clones.ts';
import { testCrashes } from './conformance/crashes.ts';
import { testDeletions } from './conformance/deletions.ts';
import { testDrives } from './conformance/drives.ts';
import { testExports } from './conformance/exports.ts';
import { testFaults } from './conformance/faults.ts';
import type { EngineHarness } from './conformance/harness.ts';
import { testImports } from './conformance/imports.ts';
import { testMany } from './conformance/many.ts';
import { testRandom } from './conformance/random.ts';
import { testRefusals } from './conformance/refusals.ts';
import { testReverts } from './conformance/reverts.ts';
import { testSizes } from './conformance/sizes.ts';
import { testSnapshots } from './conformance/snapshots.ts';
import { testSpace } from './conformance/space.ts';

export type { EngineHarness, EngineParts } from './conformance/harness.ts';

const sections = {
  drives: testDrives,
  snapshots: testSnapshots,
  reverts: testReverts,
  clones: testClones,
  deletions: testDeletions,
  sizes: testSizes,
  exports: testExports,
  imports: testImports,
  many: testMany,
  space: testSpace,
  refusals: testRefusals,
  crashes: testCrashes,
  random: testRandom,
  faults: testFaults,
} as const satisfies Record<string, (harness: EngineHarness) => void>;

export type Section = keyof typeof sections;

export function describeEngine(
  name: string,
  harness: EngineHarness,
  only: readonly Section[] = Object.keys(sections).filter((key): key is Section => key in sections),
): void {
  for (const section of only) describe(`${name}: ${section}`, () => sections[section](harness));
}
