/**
 * What CloudMC has and a server of this kind has one of: a zone, offerings of any size, a network without an outside, an
 * organisation. Their ids are made from their names, so that configurations that hold them fit every server.
 */
import { createHash } from 'node:crypto';

/** A UUID (version 8, RFC 9562) that is the same for the same name, everywhere. */
export function namedId(name: string): string {
  const hex = createHash('sha256').update(`calotype cloudmc ${name}`).digest('hex');
  const variant = ((Number.parseInt(hex[16] ?? '0', 16) & 3) | 8).toString(16);
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `8${hex.slice(13, 16)}`,
    variant + hex.slice(17, 20),
    hex.slice(20, 32),
  ].join('-');
}

export const zone = { id: namedId('zone local'), name: 'local' };
export const diskOffering = {
  id: namedId('disk offering custom'),
  name: 'Custom',
  gbSize: 0,
  customSize: true,
  customIops: false,
};
export const computeOffering = { id: namedId('compute offering custom'), name: 'Custom', custom: true };
/** Guests are alone in it: QEMU's user network, restricted. */
export const network = { id: namedId('network isolated'), name: 'isolated', zoneId: zone.id, zoneName: zone.name };
export const organization = { id: namedId('organization calotype'), name: 'Calotype', entryPoint: 'calotype' };

/** The service codes that a path may name come from here; `connections` is taken by the list of them. */
export interface Connection {
  readonly id: string;
  readonly name: string;
  readonly serviceCode: string;
}

export function connectionOf(serviceCode: string): Connection {
  return { id: namedId(`service connection ${serviceCode}`), name: serviceCode, serviceCode };
}
