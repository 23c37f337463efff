/** Draws the snapshot tree of a drive or machine with box characters. Pure; walks without recursion, for chains of thousands. */

import type { Snapshot, SnapshotTree } from './api-types.ts';
import { harmless } from './io.ts';

export interface TreeStyle {
  readonly size: (bytes: number | null) => string;
  readonly age: (iso: string) => string;
  readonly dim: (text: string) => string;
  readonly current: (text: string) => string;
}

interface Node {
  readonly id: string;
  readonly snapshot: Snapshot;
  readonly sizeBytes: number | null;
  readonly isCurrent: boolean;
  /** Ids of nodes. */
  readonly children: readonly string[];
}

interface Item {
  readonly node: Node;
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
  const nodes = tree.nodes.map(({ part, snapshot, children }) => {
    return { id: part.id, snapshot, sizeBytes: part.sizeBytes, isCurrent: part.id === tree.current, children };
  });
  const roots = nodes.filter((_, index) => tree.nodes[index]?.depth === 0);
  return draw(driveName, nodes, roots, style);
}

/** `snapshots`: all of one machine. One whose parent is gone is a root. */
export function drawMachineTree(machineName: string, snapshots: readonly Snapshot[], style: TreeStyle): string[] {
  const known = new Set(snapshots.map((snapshot) => snapshot.id));
  const children = new Map<string | null, string[]>();
  for (const { id, machine } of snapshots) {
    const parent = machine?.parentId ?? null;
    const key = parent !== null && known.has(parent) ? parent : null;
    const siblings = children.get(key);
    if (siblings === undefined) children.set(key, [id]);
    else siblings.push(id);
  }
  const nodes = snapshots.map((snapshot) => {
    const { id, sizeBytes, machine } = snapshot;
    return { id, snapshot, sizeBytes, isCurrent: machine?.current === true, children: children.get(id) ?? [] };
  });
  const roots = new Set(children.get(null));
  return draw(
    machineName,
    nodes,
    nodes.filter((node) => roots.has(node.id)),
    style,
  );
}

function draw(title: string, all: readonly Node[], roots: readonly Node[], style: TreeStyle): string[] {
  const lines = [harmless(title)];
  const nodes = new Map(all.map((node) => [node.id, node]));
  const childrenOf = (node: Node) => node.children.flatMap((id) => nodes.get(id) ?? []);
  if (nodes.size === 0) lines.push('└─ (no snapshots)');
  const stack = branches(roots, '');
  for (let item = stack.pop(); item !== undefined; item = stack.pop()) {
    const { node, lead, below } = item;
    lines.push(`${lead}${describeNode(node, style)}`);
    const children = childrenOf(node);
    const [only] = children;
    if (only !== undefined && children.length === 1) stack.push({ node: only, lead: below, below });
    else stack.push(...branches(children, below));
  }
  return lines;
}

/** Last first: they are taken from the end. */
function branches(nodes: readonly Node[], base: string): Item[] {
  return nodes
    .map((node, index) => {
      const isLast = index === nodes.length - 1;
      return { node, lead: `${base}${isLast ? '└─' : '├─'}`, below: `${base}${isLast ? '  ' : '│ '}` };
    })
    .reverse();
}

function describeNode({ snapshot, sizeBytes, isCurrent }: Node, style: TreeStyle): string {
  const about = [snapshot.id.slice(0, 8), style.size(sizeBytes), style.age(snapshot.createdAt)];
  if (snapshot.machine?.memory != null) about.push('memory');
  if (snapshot.state !== 'available') about.push(snapshot.state);
  if (snapshot.origin !== 'manual') about.push(snapshot.origin);
  if (!snapshot.complete) about.push('incomplete');
  const line = `${isCurrent ? '●' : '○'} ${harmless(snapshot.name)}  ${style.dim(about.join('  '))}`;
  return isCurrent ? `${line}  ${style.current('← current')}` : line;
}
