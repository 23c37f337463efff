/** What `calotype serve` does: configuration, the lock on the data directory, the server, what it says, and its orderly end. */
import { mkdirSync, readFileSync } from 'node:fs';
import { Server as TlsServer } from 'node:https';
import type { Logger } from 'pino';
import { isLoopback } from '../core/loopback.ts';
import { dialectNames } from '../dialects/dialect.ts';
import { bootstrap, type Endpoints } from '../service/bootstrap.ts';
import { assemble, readTls, type Seams, type Server } from './assemble.ts';
import { type Config, helpText, readConfig } from './config.ts';
import { type DataLock, lockDataDirectory } from './data-lock.ts';
import { createLogger } from './logging.ts';
import { resetPassword, takeResetFlag } from './reset-password.ts';
import { explainFailure, explainListenError, readyText } from './startup-report.ts';

const graceMs = 10_000;

/** Runs until a signal ends it; sets the exit code as --help says. */
export async function runServer(argv: readonly string[], seams: Seams = {}): Promise<void> {
  if (argv.includes('--help') || argv.includes('-h')) {
    process.stdout.write(helpText());
    return;
  }
  let lock: DataLock | undefined;
  let server: Server | undefined;
  try {
    const { user, rest } = takeResetFlag(argv);
    const config = readConfig(rest, process.env);
    if (user !== undefined) {
      process.stdout.write(`${await resetPassword(config.data, user)}\n`);
      process.stderr.write(`This is the new password of ${user}; it is not shown again.\n`);
      return;
    }
    const version = readVersion();
    mkdirSync(config.data, { recursive: true, mode: 0o700 });
    lock = lockDataDirectory(config.data);
    const logger = createLogger(config.logLevel);
    // An early signal must not leave the engine in the middle of recovery: it is obeyed once the server stands.
    const signals = catchSignals();
    server = await assemble(config, version, logger, seams);

    // With port 0 the address is known only afterwards; otherwise access.json is there before anybody can connect.
    const { portBase } = config;
    const early =
      portBase === 0
        ? undefined
        : await bootstrap(
            server.catalog,
            config.data,
            endpointsOf(config, server, (offset) => portBase + offset),
            config.cloudmcServiceCode,
          );
    const ports = await listen(server, config);
    const endpoints = endpointsOf(config, server, (offset) => ports.get(offset) ?? 0);
    const access = early ?? (await bootstrap(server.catalog, config.data, endpoints, config.cloudmcServiceCode));
    lock.describe({ url: endpoints.native ?? '', startedAt: new Date().toISOString() });
    process.stdout.write(
      readyText({
        endpoints,
        bootstrap: access,
        data: config.data,
        version,
        // Since the process began.
        milliseconds: performance.now(),
        recovered: server.recovered,
        isExposedWithoutTls: config.tlsCert === undefined && !isLoopback(config.host),
      }),
    );
    reloadCertificates(config, server, logger);
    await untilStopped(signals, logger);
    await server.close(graceMs);
    lock.release();
  } catch (error) {
    const { text, exitCode } = explainFailure(error);
    process.stderr.write(`${text}\n`);
    await server?.close(0);
    lock?.release();
    process.exitCode = exitCode;
  }
}

/** The listeners by their place after the first port; the dialects' are fixed, whichever of them are served. */
function listenersOf(server: Server): ReadonlyMap<number, Pick<Server['app'], 'listen' | 'server'>> {
  return new Map([
    [0, server.app],
    ...server.dialects.map(({ dialect, app }) => [dialectNames.indexOf(dialect.name) + 1, app] as const),
  ]);
}

/** @returns the ports, by their place. The native API's is opened last: who can reach it can reach the others. */
export async function listen(server: Server, config: Config): Promise<ReadonlyMap<number, number>> {
  const ports = new Map<number, number>();
  for (const [offset, app] of [...listenersOf(server)].reverse()) {
    const wanted = config.portBase === 0 ? 0 : config.portBase + offset;
    try {
      await app.listen({ host: config.host, port: wanted });
    } catch (error) {
      throw explainListenError(error, config.host, wanted);
    }
    const address = app.server.address();
    ports.set(offset, typeof address === 'object' && address !== null ? address.port : wanted);
  }
  return ports;
}

/** Only the front doors there are. */
export function endpointsOf(
  config: Pick<Config, 'tlsCert' | 'host'>,
  server: Pick<Server, 'dialects'>,
  portAt: (offset: number) => number,
): Endpoints {
  const scheme = config.tlsCert === undefined ? 'http' : 'https';
  const wildcards: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '[::1]' };
  const host = wildcards[config.host] ?? (config.host.includes(':') ? `[${config.host}]` : config.host);
  const endpoints: Record<string, string> = { native: `${scheme}://${host}:${portAt(0)}/v1` };
  for (const { dialect } of server.dialects) {
    const port = portAt(dialectNames.indexOf(dialect.name) + 1);
    endpoints[dialect.name] = `${scheme}://${host}:${port}${dialect.path}`;
  }
  return endpoints;
}

interface Signals {
  readonly first: Promise<string>;
}

/** The first signal asks for an orderly end; a second one does not wait for it. */
function catchSignals(): Signals {
  const asked = Promise.withResolvers<string>();
  let count = 0;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      count++;
      if (count > 1) process.exit(130);
      asked.resolve(signal);
    });
  }
  return { first: asked.promise };
}

async function untilStopped(signals: Signals, logger: Logger): Promise<void> {
  const signal = await signals.first;
  logger.info({ signal }, 'stopping; storage daemons and exports go on');
}

/** SIGHUP reads certificate and key again; a pair that is not good leaves the old one in use. */
function reloadCertificates(config: Config, server: Server, logger: Logger): void {
  process.on('SIGHUP', () => {
    try {
      const { tls } = readTls(config);
      if (tls === undefined) return;
      for (const { server: listener } of listenersOf(server).values()) {
        if (listener instanceof TlsServer) listener.setSecureContext({ ...tls, minVersion: 'TLSv1.2' });
      }
      logger.info('certificate and key were read again');
    } catch (err) {
      logger.error({ err }, 'the certificate was not replaced');
    }
  });
}

function readVersion(): string {
  const manifest: { version?: string } = JSON.parse(
    readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
  );
  return manifest.version ?? '0.0.0';
}
