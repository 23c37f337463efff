/**
 * The drives of a QEMU process that somebody else started: what its devices stand on, and what speaks against taking
 * snapshots of them here. Only asks; changes nothing in the process and opens no image.
 */
import { readFileSync } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import { isAbsolute, resolve } from 'node:path';
import type { QmpClient } from './qmp.ts';

/** One image of a chain. */
export interface ForeignLayer {
  readonly nodeName: string;
  /** QEMU's name for the protocol node below. */
  readonly fileNodeName: string;
  readonly format: 'qcow2' | 'raw';
  /** Absolute, links resolved. */
  readonly path: string;
  readonly sizeBytes: number;
}

export interface ForeignDrive {
  /** What QEMU calls the disk: its device path, or the name of its drive. */
  readonly device: string;
  /** Top first; empty when there is a problem with the first. */
  readonly chain: readonly ForeignLayer[];
  /** Opened past the page cache. */
  readonly direct: boolean;
  /** Why it cannot be taken over, in words; null when it can. */
  readonly problem: string | null;
}

interface ImageInfo {
  filename: string;
  'virtual-size': number;
  snapshots?: unknown[];
  encrypted?: boolean;
  'format-specific'?: { type: string; data: { 'data-file'?: string } };
}

interface NodeInfo {
  'node-name': string;
  drv: string;
  ro: boolean;
  image: ImageInfo;
  cache: { direct: boolean };
}

interface DeviceInfo {
  device: string;
  qdev?: string;
  removable: boolean;
  inserted?: { 'node-name'?: string; ro: boolean };
}

interface BlockGraph {
  nodes: { id: number; type: string; name: string }[];
  edges: { parent: number; child: number; name: string }[];
}

/** A header of one sector holds it, with room for what else is there. */
const maxPathBytes = 350;
const maxDepth = 200;
/** Holds a file open for writing: byte 101 is locked (QEMU block/file-posix.c, RAW_LOCK_PERM_BASE and BLK_PERM_WRITE). */
const writeLockByte = 101;

/** Every disk that the guest can write; media that can be taken out and firmware are none. */
export async function inspectDrives(qmp: QmpClient, workingDirectory: string | null): Promise<ForeignDrive[]> {
  const devices = await qmp.execute<DeviceInfo[]>('query-block');
  const nodes = await qmp.execute<NodeInfo[]>('query-named-block-nodes', { flat: true });
  const graph = await qmp.execute<BlockGraph>('x-debug-query-block-graph');
  const busy = new Set(
    (await qmp.execute<{ device: string; type: string }[]>('query-block-jobs')).map((job) => job.device),
  );
  const byName = new Map(nodes.map((node) => [node['node-name'], node]));
  const drives: ForeignDrive[] = [];
  for (const entry of devices) {
    const top = entry.inserted?.['node-name'];
    const device = entry.qdev ?? entry.device;
    if (entry.inserted === undefined || entry.inserted.ro || entry.removable || device === '') continue;
    if (/pflash|\.flash\d/.test(`${entry.device} ${device}`)) continue;
    const direct = byName.get(top ?? '')?.cache.direct ?? false;
    if (top === undefined) drives.push({ device, chain: [], direct, problem: 'its image has no node name' });
    else drives.push({ device, direct, ...(await inspectChain(top, byName, graph, workingDirectory, busy)) });
  }
  return drives;
}

async function inspectChain(
  top: string,
  byName: ReadonlyMap<string, NodeInfo>,
  graph: BlockGraph,
  workingDirectory: string | null,
  busy: ReadonlySet<string>,
): Promise<{ chain: ForeignLayer[]; problem: string | null }> {
  const chain: ForeignLayer[] = [];
  let problem: string | null = null;
  for (let name: string | null = top; name !== null; name = childOf(graph, name, 'backing')) {
    const node = byName.get(name);
    if (node === undefined || chain.length === maxDepth) return { chain, problem: `its node ${name} is not known` };
    const { image, drv } = node;
    if (drv !== 'qcow2' && drv !== 'raw') {
      return { chain, problem: `${image.filename} has the format ${drv}; qcow2 and raw can be taken over` };
    }
    if (busy.has(name)) problem ??= 'a block job is running on it';
    if ((image.snapshots ?? []).length > 0) problem ??= `${image.filename} has internal snapshots`;
    if (image.encrypted === true) problem ??= `${image.filename} is encrypted`;
    if (image['format-specific']?.data['data-file'] !== undefined) problem ??= `${image.filename} has a data file`;
    const found = await locate(image.filename, workingDirectory);
    if ('problem' in found) return { chain, problem: problem ?? found.problem };
    const sizeBytes = image['virtual-size'];
    if (sizeBytes % 512 !== 0) problem ??= `${found.path} is not of whole sectors`;
    if (name === top && !isOpenForWriting(found.device, found.inode)) {
      problem ??= `nobody has ${found.path} open for writing, other than the process says`;
    }
    const fileNodeName = childOf(graph, name, 'file') ?? '';
    chain.push({ nodeName: name, fileNodeName, format: drv, path: found.path, sizeBytes });
  }
  return { chain, problem };
}

function childOf(graph: BlockGraph, name: string, edge: string): string | null {
  const parent = graph.nodes.find((node) => node.type === 'block-driver' && node.name === name);
  const found = graph.edges.find((item) => item.parent === parent?.id && item.name === edge);
  return graph.nodes.find((node) => node.id === found?.child)?.name ?? null;
}

async function locate(
  filename: string,
  workingDirectory: string | null,
): Promise<{ path: string; device: number; inode: number } | { problem: string }> {
  if (/^[\w-]+:/.test(filename)) return { problem: `${filename} is no plain file` };
  if (!isAbsolute(filename) && workingDirectory === null) {
    return { problem: `${filename} is named without its directory, and the process cannot be seen from here` };
  }
  try {
    const path = await realpath(isAbsolute(filename) ? filename : resolve(workingDirectory ?? '/', filename));
    const found = await stat(path);
    if (!found.isFile()) return { problem: `${path} is no regular file` };
    if (/[:\p{Cc}]/u.test(path) || Buffer.byteLength(path) > maxPathBytes) {
      return { problem: `the path ${path} is too long, or has a colon or characters of control` };
    }
    return { path, device: found.dev, inode: found.ino };
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown';
    return { problem: `${filename} cannot be reached from here (${code})` };
  }
}

/** Whether some QEMU process holds the lock that says it writes the file. */
function isOpenForWriting(device: number, inode: number): boolean {
  // The kernel's numbers are major (12 bits) and minor (20 bits) of a device id as stat gives it.
  const major = ((device / 256) & 0xfff) | 0;
  const minor = (device & 0xff) | ((Math.floor(device / 4096) & 0xfff00) | 0);
  const hex = (value: number): string => value.toString(16).padStart(2, '0');
  const file = `${hex(major)}:${hex(minor)}:${inode}`;
  return readFileSync('/proc/locks', 'utf8')
    .split('\n')
    .some((line) => {
      const fields = line.trim().split(/\s+/);
      const at = fields.indexOf(file);
      if (at < 0) return false;
      const first = Number(fields[at + 1]);
      const last = fields[at + 2] === 'EOF' ? Number.POSITIVE_INFINITY : Number(fields[at + 2]);
      return first <= writeLockByte && writeLockByte <= last;
    });
}
