import { describeEngine } from '../conformance.ts';
import { harness } from './conformance-harness.ts';

describeEngine('qcow2', harness, ['crashes', 'random', 'refusals', 'faults']);
