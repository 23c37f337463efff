/** The order of test files: the long ones first, so that no worker is left alone with one at the end. A fresh clone remembers no times. */
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Longest first, as measured. */
const long = [
  'src/engine/qcow2/conformance-crashes.test.ts',
  'test/campaign.test.ts',
  'src/engine/qcow2/conformance.test.ts',
  'test/demo.test.ts',
  'test/power-failure.test.ts',
  'test/machine-faults.test.ts',
  'test/machine-changes.test.ts',
  'test/machine-crashes.test.ts',
  'test/tour.test.ts',
  'src/guest/guest.test.ts',
];

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const usual = await super.sort(files);
    const placeOf = ({ moduleId }: TestSpecification): number => {
      const place = long.findIndex((name) => moduleId.endsWith(`/${name}`));
      return place === -1 ? long.length : place;
    };
    return usual.sort((a, b) => placeOf(a) - placeOf(b));
  }
}
