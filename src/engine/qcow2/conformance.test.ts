import { describeEngine } from '../conformance.ts';
import { harness } from './conformance-harness.ts';

describeEngine('qcow2', harness, [
  'drives',
  'snapshots',
  'reverts',
  'clones',
  'deletions',
  'sizes',
  'exports',
  'imports',
  'many',
  'space',
]);
