/** What a gateway (nbd-gateway.ts) may be asked for: checks of a request, and the choice of its port. */
import { BlockList, createServer, isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { CalotypeError } from '../core/errors.ts';
import { type ExportId, isUuid } from '../core/ids.ts';
import { type GatewayRequest, hasCode } from './nbd-gateway-record.ts';

export function checkRequest({ exportId, exportName, target, host, port, tls, psk }: GatewayRequest): void {
  checkId(exportId);
  if (!isExportName(exportName))
    throw refused('exportName', 'An export name has 1 to 255 bytes, no control characters.');
  if (!isExportName(target.exportName)) throw refused('target', 'The target has no export name.');
  if (!isOwnAddress(host)) throw refused('host', `${host} is not an IP address of this machine.`, { host });
  if (!Number.isInteger(port) || port < 0 || port > 65_535)
    throw refused('port', 'A port is from 1024 to 65535, or 0.');
  if (port > 0 && port < 1024)
    throw portRefused(port, 'is privileged; choose one from 1024 to 65535, or 0 for a free one');
  if (psk === undefined) return;
  const sound = /^[\w.-]{1,128}$/.test(psk.identity) && /^([0-9a-f]{2}){16,64}$/i.test(psk.keyHex);
  if (!tls || !sound) throw refused('psk', 'A key needs TLS, a plain identity and 16 to 64 bytes in hex.');
}

export function checkId(exportId: string): void {
  if (!isUuid(exportId)) throw refused('exportId', 'The export id is not a UUID.');
}

export function isExportId(name: string): name is ExportId {
  return isUuid(name);
}

function isExportName(name: string): boolean {
  return name !== '' && Buffer.byteLength(name) <= 255 && !/\p{Cc}/u.test(name);
}

function isOwnAddress(host: string): boolean {
  const family = isIP(host);
  if (family === 0 || host.includes('%')) return false;
  const own = new BlockList();
  own.addSubnet('127.0.0.0', 8, 'ipv4');
  for (const any of ['0.0.0.0', '::']) own.addAddress(any, any === '::' ? 'ipv6' : 'ipv4');
  for (const one of Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? [])) {
    own.addAddress(one.address, one.family === 'IPv6' ? 'ipv6' : 'ipv4');
  }
  return own.check(host, family === 6 ? 'ipv6' : 'ipv4');
}

/** The wanted port if it is free; when any will do, the preferred one or one that the system picks. */
export async function choosePort(host: string, wanted: number, preferred: number): Promise<number> {
  if (wanted !== 0) return probePort(host, wanted);
  if (preferred !== 0) {
    const again = await probePort(host, preferred).catch(() => 0);
    if (again !== 0) return again;
  }
  return probePort(host, 0);
}

function probePort(host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error) => {
      if (hasCode(error, 'EADDRINUSE')) reject(portRefused(port, 'is taken', error));
      else if (hasCode(error, 'EACCES')) reject(portRefused(port, 'is not open to this user', error));
      else reject(refused('host', `Cannot listen on ${host}: ${error.message}`, { host }, error));
    });
    server.listen({ host, port, exclusive: true }, () => {
      const address = server.address();
      server.close(() => resolve(address !== null && typeof address === 'object' ? address.port : port));
    });
  });
}

export function portRefused(port: number, what: string, cause?: unknown): CalotypeError {
  return refused('port', `Port ${port} ${what}.`, { port }, cause);
}

function refused(field: string, message: string, more: Record<string, unknown> = {}, cause?: unknown): CalotypeError {
  return new CalotypeError('invalid_request', message, { field, ...more }, { cause });
}
