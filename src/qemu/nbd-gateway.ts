/**
 * Serves exports over TCP. The engine's storage daemon listens on one unix socket only; for each TCP export a *gateway*
 * runs, a small `qemu-storage-daemon` of its own that opens the unix export as an NBD client and serves it on, so that
 * what faces the network never has an image open. Gateways outlive the server and are found again by their directory.
 *
 *     runDirectory/gateways/<exportId>/   0700, the working directory of the process
 *       gateway.json   what is served where: all it takes to start it again
 *       keys.psk       with TLS: `identity:key in hex`, mode 0600, as QEMU's tls-creds-psk wants it
 *       qmp.sock       the monitor            gateway.log   what the process said
 *
 * Without TLS nothing is secret. QEMU tells the export names to whoever asks (NBD_OPT_LIST), so that a random name stops
 * a mistaken client, not a curious one. On a host other than loopback, TLS is the caller's duty, or a random name and a firewall.
 */
import { mkdir, readdir, realpath, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CalotypeError, notFound } from '../core/errors.ts';
import type { ExportId } from '../core/ids.ts';
import { KeyedMutex } from '../core/mutex.ts';
import { endsWithin, findDaemons, isServing, startDaemon } from './nbd-gateway-process.ts';
import {
  type GatewayAddress,
  type GatewayPsk,
  type GatewayRecord,
  type GatewayRequest,
  makePsk,
  readPsk,
  readRecord,
  writePsk,
  writeRecord,
} from './nbd-gateway-record.ts';
import { checkId, checkRequest, choosePort, isExportId, portRefused } from './nbd-gateway-request.ts';
import { type QmpClient, QmpError } from './qmp.ts';

export type { GatewayAddress, GatewayPsk, GatewayRequest, GatewayTarget } from './nbd-gateway-record.ts';

/** A gateway as its directory has it. */
export interface GatewayState extends GatewayRecord {
  /** False when the process died, for instance with the machine: `restart` brings it back. */
  readonly running: boolean;
}

/** A gateway buffers nothing. One that waits for a storage daemon that is gone would take all of `reconnectDelayS` to end. */
const stopGraceMs = 3_000;
const killDeadlineMs = 10_000;
/** So long requests wait for a storage daemon that restarts before they fail; later ones fail at once until it is back. */
const reconnectDelayS = 120;
const freePortAttempts = 8;

export class NbdGateways {
  readonly #runDirectory: string;
  readonly #locks = new KeyedMutex<ExportId>();
  #root: Promise<string> | undefined;

  constructor(place: { readonly runDirectory: string }) {
    this.#runDirectory = place.runDirectory;
  }

  /**
   * Serves an export over TCP; clients can connect when this resolves. Idempotent: one that already runs as requested
   * is left alone and answers with its address and key; one that differs is replaced. When it fails, nothing new runs.
   * @throws invalid_request (`details.field`; also port taken or privileged), engine_failed (target not served or
   * read-only), engine_unavailable (process did not start)
   */
  async start(request: GatewayRequest): Promise<GatewayAddress> {
    checkRequest(request);
    return this.#locks.run([request.exportId], () => this.#start(request));
  }

  /** Starts a gateway again, with the same port and key: one that died, or one whose drive has grown. @throws not_found, and as `start` */
  async restart(exportId: ExportId): Promise<GatewayAddress> {
    checkId(exportId);
    return this.#locks.run([exportId], async () => {
      const record = await readRecord(await this.#directoryOf(exportId));
      if (record === null) throw notFound('gateway', exportId);
      await this.#endProcess(exportId);
      return this.#start(record);
    });
  }

  /** Ends a gateway, waits until its process is gone, and removes its directory with the key. Idempotent. @throws engine_unavailable when the process cannot be ended */
  async stop(exportId: ExportId): Promise<void> {
    checkId(exportId);
    await this.#locks.run([exportId], () => this.#remove(exportId));
  }

  /**
   * Run once at start-up: takes stock of what an earlier server left. Answers with the gateways that serve; ends those that
   * were half made and removes directories that say nothing. What died stays in `list` until `restart` or `stop`.
   */
  async adopt(): Promise<ExportId[]> {
    const serving: ExportId[] = [];
    for (const exportId of await this.#directories()) {
      await this.#locks.run([exportId], async () => {
        const directory = await this.#directoryOf(exportId);
        if ((await readRecord(directory)) === null) await this.#remove(exportId);
        else if (!findDaemons().has(directory)) return;
        else if (await isServing(directory)) serving.push(exportId);
        else await this.#endProcess(exportId);
      });
    }
    return serving;
  }

  /** All gateways that were started and not stopped, running or not. Cheap; needs no answer of theirs. */
  async list(): Promise<GatewayState[]> {
    const daemons = findDaemons();
    const states: GatewayState[] = [];
    for (const exportId of await this.#directories()) {
      const directory = await this.#directoryOf(exportId);
      const record = await readRecord(directory);
      if (record !== null) states.push({ ...record, running: daemons.has(directory) });
    }
    return states;
  }

  async #start(request: GatewayRequest): Promise<GatewayAddress> {
    const { exportId } = request;
    const directory = await this.#directoryOf(exportId);
    const before = await readRecord(directory);
    const oldPsk = before?.tls === true ? await readPsk(directory) : null;
    if (before !== null && fits(before, oldPsk, request) && findDaemons().has(directory)) {
      if (await isServing(directory)) return addressOf(before, oldPsk);
    }
    await this.#endProcess(exportId);
    try {
      return await serve(directory, request, before, request.tls ? (request.psk ?? oldPsk ?? makePsk()) : null);
    } catch (error) {
      await this.#endProcess(exportId);
      if (before === null) await this.#remove(exportId);
      else {
        await writePsk(directory, oldPsk);
        await writeRecord(directory, before);
      }
      throw error;
    }
  }

  async #remove(exportId: ExportId): Promise<void> {
    await this.#endProcess(exportId);
    await rm(await this.#directoryOf(exportId), { recursive: true, force: true });
  }

  async #endProcess(exportId: ExportId): Promise<void> {
    const directory = await this.#directoryOf(exportId);
    const pid = findDaemons().get(directory);
    if (pid === undefined || (await endsWithin(pid, directory, 'SIGTERM', stopGraceMs))) return;
    if (await endsWithin(pid, directory, 'SIGKILL', killDeadlineMs)) return;
    throw new CalotypeError('engine_unavailable', `The gateway process ${pid} does not end.`, { exportId, pid });
  }

  async #directories(): Promise<ExportId[]> {
    return (await readdir(await this.#rootDirectory())).filter(isExportId).sort();
  }

  async #directoryOf(exportId: ExportId): Promise<string> {
    return join(await this.#rootDirectory(), exportId);
  }

  /** Without symbolic links, as /proc shows it. */
  #rootDirectory(): Promise<string> {
    const make = async (): Promise<string> => {
      const path = join(this.#runDirectory, 'gateways');
      await mkdir(path, { recursive: true, mode: 0o700 });
      return realpath(path);
    };
    this.#root ??= make().catch((error: unknown) => {
      this.#root = undefined;
      throw error;
    });
    return this.#root;
  }
}

/** What is needed to start again is on disk before the process listens; the export, added last, is what makes it whole. */
async function serve(
  directory: string,
  request: GatewayRequest,
  before: GatewayRecord | null,
  psk: GatewayPsk | null,
): Promise<GatewayAddress> {
  const { exportId, exportName, target, writable, host, tls } = request;
  const port = await choosePort(host, request.port, before?.host === host ? before.port : 0);
  let record: GatewayRecord = { exportId, exportName, target, writable, host, port, tls };
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await writePsk(directory, psk);
  await writeRecord(directory, record);
  const qmp = await startDaemon(directory);
  try {
    if (psk !== null) {
      await qmp.execute('object-add', { 'qom-type': 'tls-creds-psk', id: 'tls', endpoint: 'server', dir: directory });
    }
    await qmp.execute('blockdev-add', blockNodes(request));
    for (let attempt = 1; ; attempt++) {
      const error = await tryListen(qmp, host, record.port, tls);
      if (error === null) break;
      // Somebody took the port in the moment between our look and QEMU's.
      if (request.port !== 0) throw portRefused(record.port, 'is taken', error);
      if (attempt === freePortAttempts) throw error;
      record = { ...record, port: await choosePort(host, 0, 0) };
      await writeRecord(directory, record);
    }
    await qmp.execute('block-export-add', {
      type: 'nbd',
      id: 'gateway',
      'node-name': 'disk',
      name: exportName,
      writable,
    });
    return addressOf(record, psk);
  } finally {
    qmp.close();
  }
}

function blockNodes({ target, writable }: GatewayRequest): Record<string, unknown> {
  const common = { 'read-only': !writable, discard: 'unmap' };
  const file = {
    ...common,
    driver: 'nbd',
    'node-name': 'target',
    server: { type: 'unix', path: target.socketPath },
    export: target.exportName,
    'reconnect-delay': reconnectDelayS,
  };
  return { ...common, driver: 'raw', 'node-name': 'disk', file };
}

/** Null when QEMU listens, the error when the port was taken. */
async function tryListen(qmp: QmpClient, host: string, port: number, tls: boolean): Promise<QmpError | null> {
  const addr = { type: 'inet', data: { host, port: String(port), numeric: true } };
  try {
    await qmp.execute('nbd-server-start', { addr, ...(tls && { 'tls-creds': 'tls' }) });
    return null;
  } catch (error) {
    if (error instanceof QmpError && /address already in use/i.test(error.message)) return error;
    throw error;
  }
}

function fits(record: GatewayRecord, psk: GatewayPsk | null, wanted: GatewayRequest): boolean {
  return (
    record.exportName === wanted.exportName &&
    record.target.exportName === wanted.target.exportName &&
    record.target.socketPath === wanted.target.socketPath &&
    record.writable === wanted.writable &&
    record.host === wanted.host &&
    (wanted.port === 0 || record.port === wanted.port) &&
    record.tls === wanted.tls &&
    (wanted.psk === undefined || (psk?.identity === wanted.psk.identity && psk.keyHex === wanted.psk.keyHex))
  );
}

function addressOf({ host, port }: GatewayRecord, psk: GatewayPsk | null): GatewayAddress {
  return psk === null ? { host, port } : { host, port, psk };
}
