import { describe, expect, it } from 'vitest';
import { aPart, aSnapshot } from '../../test/fake-native-api.ts';
import type { SnapshotNode } from './api-types.ts';
import { drawTree, type TreeStyle } from './tree.ts';

const style: TreeStyle = {
  size: (bytes) => `${bytes} B`,
  age: () => '3d',
  dim: (text) => text,
  current: (text) => text,
};
const drive = { id: 'd', name: 'data' };

/** `{ base: ['day-1'], … }`, in drawing order; ids are the names. */
function nodesOf(children: Readonly<Record<string, readonly string[]>>, roots: readonly string[]): SnapshotNode[] {
  const out: SnapshotNode[] = [];
  const stack = roots.map((name) => ({ name, depth: 0 })).reverse();
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const { name, depth } = next;
    const part = aPart(drive, { id: name });
    out.push({
      depth,
      part,
      snapshot: aSnapshot([part], { id: `id-${name}-longer`, name }),
      children: children[name] ?? [],
    });
    for (const child of (children[name] ?? []).toReversed()) stack.push({ name: child, depth: depth + 1 });
  }
  return out;
}

const shape = (lines: readonly string[]) => lines.map((line) => line.replace(/ {2}id-\S* .*?3d/, ''));

describe('drawTree', () => {
  it('draws chains straight down and branches with box characters', () => {
    const nodes = nodesOf({ base: ['day-1'], 'day-1': ['test', 'day-2'], test: ['test-2'], 'day-2': ['day-3'] }, [
      'base',
      'other',
    ]);
    expect(shape(drawTree('data', { current: 'day-3', nodes }, style))).toEqual([
      'data',
      '├─○ base',
      '│ ○ day-1',
      '│ ├─○ test',
      '│ │ ○ test-2',
      '│ └─○ day-2',
      '│   ● day-3  ← current',
      '└─○ other',
    ]);
  });

  it('shows id, size, age and what is unusual', () => {
    const [node] = nodesOf({}, ['a']);
    if (node === undefined) throw new Error('no node');
    const odd = {
      ...node,
      snapshot: { ...node.snapshot, id: '12345678-aaaa', state: 'creating', origin: 'safety', complete: false },
    };
    expect(drawTree('data', { current: null, nodes: [odd] }, style)[1]).toBe(
      '└─○ a  12345678  1048576 B  3d  creating  safety  incomplete',
    );
  });

  it('says when there is nothing', () => {
    expect(drawTree('data', { current: null, nodes: [] }, style)).toEqual(['data', '└─ (no snapshots)']);
  });

  it('draws a chain of ten thousand within a few columns', () => {
    const children: Record<string, string[]> = {};
    for (let i = 0; i < 9_999; i++) children[`s${i}`] = [`s${i + 1}`];
    const lines = drawTree('data', { current: 's9999', nodes: nodesOf(children, ['s0']) }, style);
    expect(lines).toHaveLength(10_001);
    expect(lines.at(-1)).toMatch(/^ {2}● s9999 .*← current$/);
  });
});
