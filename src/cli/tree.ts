/** Draws the snapshot tree of a drive with box characters. Pure; walks without recursion, for chains of thousands. */

import type { SnapshotNode, SnapshotTree } from './api-types.ts';
import { harmless } from './io.ts';

export interface TreeStyle {
  readonly size: (bytes: number | null) => string;
  readonly age: (iso: string) => string;
  readonly dim: (text: string) => string;
  readonly current: (text: string) => string;
}

interface Item {
  readonly node: SnapshotNode;
  readonly lead: string;
  /** What stands before the lines that hang below. */
  readonly below: string;
}

/**
 *     data
 *     └─○ base  1f2e3d4c  1 MiB  3d
 *       ○ day-1  …
 *       ├─○ experiment  …
 *       └─● day-2  …  ← current
 *
 * An only child stands straight below its parent, so that a chain of a thousand does not walk off the screen; lines
 * branch where history did. `● … ← current` is what the present state descends from.
 */
export function drawTree(driveName: string, tree: SnapshotTree, style: TreeStyle): string[] {
  const lines = [harmless(driveName)];
  const nodes = new Map(tree.nodes.map((node) => [node.part.id, node]));
  const childrenOf = (node: SnapshotNode) => node.children.flatMap((id) => nodes.get(id) ?? []);
  if (nodes.size === 0) lines.push('└─ (no snapshots)');
  const stack = branches(
    tree.nodes.filter((node) => node.depth === 0),
    '',
  );
  for (let item = stack.pop(); item !== undefined; item = stack.pop()) {
    const { node, lead, below } = item;
    lines.push(`${lead}${describeNode(node, tree.current, style)}`);
    const children = childrenOf(node);
    const [only] = children;
    if (only !== undefined && children.length === 1) stack.push({ node: only, lead: below, below });
    else stack.push(...branches(children, below));
  }
  return lines;
}

/** Last first: they are taken from the end. */
function branches(nodes: readonly SnapshotNode[], base: string): Item[] {
  return nodes
    .map((node, index) => {
      const isLast = index === nodes.length - 1;
      return { node, lead: `${base}${isLast ? '└─' : '├─'}`, below: `${base}${isLast ? '  ' : '│ '}` };
    })
    .reverse();
}

function describeNode({ part, snapshot }: SnapshotNode, current: string | null, style: TreeStyle): string {
  const isCurrent = part.id === current;
  const about = [snapshot.id.slice(0, 8), style.size(part.sizeBytes), style.age(snapshot.createdAt)];
  if (snapshot.state !== 'available') about.push(snapshot.state);
  if (snapshot.origin !== 'manual') about.push(snapshot.origin);
  if (!snapshot.complete) about.push('incomplete');
  const line = `${isCurrent ? '●' : '○'} ${harmless(snapshot.name)}  ${style.dim(about.join('  '))}`;
  return isCurrent ? `${line}  ${style.current('← current')}` : line;
}
