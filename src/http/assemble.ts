/**
 * The server's parts in their order of opening: catalog, engine, service, accounts, app. What was opened is closed again in reverse,
 * also when a later part fails. Storage daemons and exports stay: they belong to the data directory, not to the process.
 */
import { readFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { Catalog } from '../catalog/catalog.ts';
import { CalotypeError } from '../core/errors.ts';
import { dialects } from '../dialects/dialects.ts';
import { Qcow2Engine } from '../engine/qcow2/engine.ts';
import { toolVersions } from '../qemu/image-tools.ts';
import { NbdGateways } from '../qemu/nbd-gateway.ts';
import { Authenticator } from '../service/authenticate.ts';
import type { Gateway } from '../service/context.ts';
import { Grants } from '../service/grants.ts';
import { Projects } from '../service/projects.ts';
import { createService } from '../service/service.ts';
import { Sessions } from '../service/sessions.ts';
import { Tokens } from '../service/tokens.ts';
import { Users } from '../service/users.ts';
import { buildApp } from './app.ts';
import type { Config } from './config.ts';
import type { App } from './context.ts';
import { buildDialectApp, type DialectApp, mountDialects } from './dialect-app.ts';
import { catalogInventory } from './inventory.ts';
import { Metrics } from './metrics.ts';

export interface Server {
  readonly app: App;
  /** Those that were asked for, each to be given a listener of its own. */
  readonly dialects: readonly DialectApp[];
  readonly catalog: Catalog;
  /** What recovery found and did, one line each. */
  readonly recovered: readonly string[];
  /** Refuses new requests, ends waits and streams, lets the rest finish until the deadline, then closes every part. */
  close(graceMs: number): Promise<void>;
}

/** What a test may put between. */
export interface Seams {
  /** Called at every durable step of engine and machines, by name; the crash campaign dies here. */
  readonly onStep?: (name: string) => void;
}

type Closing = (graceMs: number) => Promise<unknown>;

/** @throws CalotypeError of start-up: `qemu_missing`, `qemu_too_old`, `catalog_too_new`, `catalog_damaged`, `engine_unavailable` */
export async function assemble(config: Config, version: string, logger: Logger, seams: Seams = {}): Promise<Server> {
  // Before anything is started: a pair that is no good must leave nothing behind.
  const tls = readTls(config);
  const undo: Closing[] = [];
  const closeAll: Closing = async (graceMs) => {
    for (let next = undo.pop(); next !== undefined; next = undo.pop()) {
      await next(graceMs).catch((err: unknown) => logger.error({ err }, 'a part of the server did not close well'));
    }
  };
  try {
    // Programs take their time to say their version; the catalog opens meanwhile.
    const [tools, catalog] = await bothOrThrow(toolVersions(), Catalog.open(config.data), (opened) => opened.close());
    undo.push(() => catalog.close());
    const engine = new Qcow2Engine({
      catalog,
      dataDirectory: config.data,
      logger: { info: (message) => logger.info(message), warn: (message) => logger.warn(message) },
      minFreeBytes: await minFreeBytes(config),
      reserveBytes: config.reserveBytes,
      ...seams,
    });
    undo.push(() => engine.close());
    const recovered = await engine.open();

    const bootDirectory = config.bootDirectory ?? join(config.data, 'boot');
    const metrics = new Metrics({ version, inventory: catalogInventory(catalog, engine) });
    const service = await createService({
      catalog,
      engine,
      config: {
        dataDirectory: config.data,
        importDirectory: config.importDirectory ?? null,
        bootDirectory,
        maxImportBytes: config.maxImportBytes,
        maxDriveBytes: config.maxDriveBytes,
        gateway: await openGateways(catalog, config.data),
        observer: metrics.observer,
        ...seams,
      },
      logger,
    });
    undo.push((graceMs) => service.close(graceMs));

    const authenticator = new Authenticator(catalog);
    const accounts = {
      users: new Users(catalog, authenticator),
      projects: new Projects(catalog, authenticator),
      tokens: new Tokens(catalog, authenticator),
      grants: new Grants(catalog),
    };
    const sessions = new Sessions(authenticator);
    const listening = { metrics, trustedProxies: config.trustedProxies, ...tls };
    const closing = new AbortController();
    const apps: DialectApp[] = [];
    for (const dialect of dialects.filter(({ name }) => config.dialects.includes(name))) {
      const { cloudmcServiceCode } = config;
      const context = {
        service,
        ...accounts,
        authenticator,
        sessions,
        version,
        cloudmcServiceCode,
        closing: closing.signal,
      };
      const built = await buildDialectApp(dialect, context, listening, logger);
      undo.push(closeApp(built.app, () => closing.abort()));
      apps.push(built);
    }
    const { app, beginClosing } = await buildApp(
      {
        service,
        accounts,
        authenticator,
        facts: { version, engine: { name: engine.name, capabilities: engine.capabilities }, tools },
        bootDirectory,
        maxImportBytes: config.maxImportBytes,
        metricsPublic: config.metricsPublic,
        ...listening,
      },
      logger,
      { mount: mountDialects(apps) },
    );
    undo.push(
      closeApp(app, () => {
        beginClosing();
        closing.abort();
      }),
    );
    const { tasks, objects } = service.recovered;
    return {
      app,
      dialects: apps,
      catalog,
      recovered: [
        ...recovered,
        ...(tasks === 0 ? [] : [`took up ${tasks} unfinished ${tasks === 1 ? 'task' : 'tasks'}`]),
        ...(objects === 0 ? [] : [`put ${objects} ${objects === 1 ? 'object' : 'objects'} right`]),
      ],
      close: async (graceMs) => void (await closeAll(graceMs)),
    };
  } catch (error) {
    await closeAll(0);
    throw error;
  }
}

/** Requests that are under way have until the deadline. */
function closeApp(app: Pick<App, 'server' | 'close'>, begin: () => void): Closing {
  return async (graceMs) => {
    begin();
    const cut = setTimeout(() => app.server.closeAllConnections(), graceMs);
    await app.close();
    clearTimeout(cut);
  };
}

/** Both results, or the first's failure before the second's; then `release` gets what the second had opened. */
async function bothOrThrow<A, B>(
  first: Promise<A>,
  second: Promise<B>,
  release: (opened: B) => Promise<void>,
): Promise<[A, B]> {
  const [a, b] = await Promise.allSettled([first, second]);
  if (a.status === 'fulfilled' && b.status === 'fulfilled') return [a.value, b.value];
  if (b.status === 'fulfilled') await release(b.value);
  throw a.status === 'rejected' ? a.reason : b.status === 'rejected' ? b.reason : new Error('unreachable');
}

/** The high-water mark as the engine wants it: bytes that must stay free. */
async function minFreeBytes(config: Config): Promise<number> {
  const found = await statfs(config.data);
  const aboveMark = Math.floor((found.blocks * found.bsize * (100 - config.highWaterPercent)) / 100);
  return Math.max(config.minFreeBytes, aboveMark);
}

/** The service's gateway over those of QEMU: whether an export may be written is in its record. */
async function openGateways(catalog: Catalog, data: string): Promise<Gateway> {
  const gateways = new NbdGateways({ runDirectory: join(data, 'run') });
  await gateways.adopt();
  return {
    startGateway: async ({ exportId, target, host, port, tls, psk }) => {
      const row = await catalog.db
        .selectFrom('exports')
        .select('writable')
        .where('id', '=', exportId)
        .executeTakeFirstOrThrow();
      return gateways.start({
        exportId,
        exportName: target.exportName,
        target,
        writable: row.writable === 1,
        host,
        port,
        tls,
        ...(psk === undefined ? {} : { psk }),
      });
    },
    stopGateway: (exportId) => gateways.stop(exportId),
  };
}

/** @throws CalotypeError `config_invalid` when a file cannot be read or the two do not go together */
export function readTls(config: Config): { tls?: { cert: Buffer; key: Buffer } } {
  const { tlsCert, tlsKey } = config;
  if (tlsCert === undefined || tlsKey === undefined) return {};
  const read = (flag: string, path: string): Buffer => {
    try {
      return readFileSync(path);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new CalotypeError('config_invalid', `${flag}: ${path} cannot be read (${reason}).`, { source: flag });
    }
  };
  const tls = { cert: read('--tls-cert', tlsCert), key: read('--tls-key', tlsKey) };
  try {
    process.getBuiltinModule('node:tls').createSecureContext(tls);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CalotypeError(
      'config_invalid',
      `--tls-cert, --tls-key: ${tlsCert} and ${tlsKey} do not make a pair (${reason}).`,
      {
        source: '--tls-cert',
      },
    );
  }
  return { tls };
}
