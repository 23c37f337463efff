/** What a gateway (nbd-gateway.ts) serves, and its durable form: `gateway.json` and `keys.psk` in its directory. */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { open, readFile, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { ExportId } from '../core/ids.ts';

/** An export of the storage daemon: the engine's `NbdTarget`. */
export interface GatewayTarget {
  readonly exportName: string;
  readonly socketPath: string;
}

/** A TLS pre-shared key: 16 to 64 bytes in hex. */
export interface GatewayPsk {
  readonly identity: string;
  readonly keyHex: string;
}

export interface GatewayRequest {
  readonly exportId: ExportId;
  /** The name that TCP clients ask for. */
  readonly exportName: string;
  readonly target: GatewayTarget;
  readonly writable: boolean;
  /** An IP address of this machine, or `0.0.0.0` or `::` for all of them. */
  readonly host: string;
  /** 0 takes a free one: the port it had before, if it was started before. */
  readonly port: number;
  readonly tls: boolean;
  /** With `tls`: the key to use. Without it the one this export had before is used, or a new one made. */
  readonly psk?: GatewayPsk;
}

export interface GatewayAddress {
  readonly host: string;
  readonly port: number;
  readonly psk?: GatewayPsk;
}

/** All but the key, which has a file of its own. */
export type GatewayRecord = Omit<GatewayRequest, 'psk'>;

const recordFormat = 'calotype-gateway-1';

export function makePsk(): GatewayPsk {
  return { identity: 'calotype', keyHex: randomBytes(32).toString('hex') };
}

export async function writePsk(directory: string, psk: GatewayPsk | null): Promise<void> {
  const path = join(directory, 'keys.psk');
  if (psk === null) await rm(path, { force: true });
  else await writeDurably(directory, path, `${psk.identity}:${psk.keyHex}\n`);
}

export async function readPsk(directory: string): Promise<GatewayPsk | null> {
  const text = await readFile(join(directory, 'keys.psk'), 'utf8').catch(() => '');
  const [identity = '', keyHex = ''] = text.trim().split(':');
  return identity === '' || keyHex === '' ? null : { identity, keyHex };
}

export function writeRecord(directory: string, record: GatewayRecord): Promise<void> {
  const text = JSON.stringify({ format: recordFormat, ...record }, undefined, 2);
  return writeDurably(directory, join(directory, 'gateway.json'), `${text}\n`);
}

/** Null when there is none, or none that is whole. */
export async function readRecord(directory: string): Promise<GatewayRecord | null> {
  try {
    const value: unknown = JSON.parse(await readFile(join(directory, 'gateway.json'), 'utf8'));
    if (!isRecord(value) || value.exportId !== basename(directory)) return null;
    const { exportId, exportName, target, writable, host, port, tls } = value;
    return { exportId, exportName, target, writable, host, port, tls };
  } catch (error) {
    if (error instanceof SyntaxError || hasCode(error, 'ENOENT')) return null;
    throw error;
  }
}

function isRecord(value: unknown): value is GatewayRecord {
  if (!isObject(value) || value.format !== recordFormat || !isObject(value.target)) return false;
  const texts = [value.exportId, value.exportName, value.host, value.target.exportName, value.target.socketPath];
  return (
    texts.every((text) => typeof text === 'string') &&
    Number.isInteger(value.port) &&
    typeof value.writable === 'boolean' &&
    typeof value.tls === 'boolean'
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

/** All or nothing, also across a power failure: a restarted machine must serve with the key that clients hold. */
async function writeDurably(directory: string, path: string, text: string): Promise<void> {
  const file = await open(`${path}.new`, 'w', 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
  const parent = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  await parent.sync().finally(() => parent.close());
}

export function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
