import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newId } from '../core/ids.ts';
import type { Gateway } from './context.ts';
import { codeOf, Harness } from './testing/harness.ts';

class FakeGateway implements Gateway {
  readonly running = new Map<string, Parameters<Gateway['startGateway']>[0]>();
  broken = false;

  async startGateway(request: Parameters<Gateway['startGateway']>[0]) {
    if (this.broken) throw new Error('no port');
    this.running.set(request.exportId, request);
    const psk = request.psk ?? { identity: 'calotype', keyHex: 'ab'.repeat(32) };
    return { port: request.port === 0 ? 10809 : request.port, ...(request.tls ? { psk } : {}) };
  }

  async stopGateway(exportId: string): Promise<void> {
    this.running.delete(exportId);
  }
}

let h: Harness;
let gateway: FakeGateway;
beforeEach(async () => {
  gateway = new FakeGateway();
  h = await Harness.start({ gateway });
});
afterEach(() => h.stop());

const unix = { kind: 'unix' } as const;

describe('exports', () => {
  it('serve a drive to one writer or to several readers', async () => {
    const drive = await h.drive();
    const writer = await h.service.exports.create(h.caller, {
      of: { drive: drive.id, writable: true },
      transport: unix,
    });
    expect(writer).toMatchObject({ driveId: drive.id, driveSnapshotId: null, writable: true, transport: 'unix' });
    expect(writer.uri).toBe(`nbd+unix:///${writer.exportName}?socket=/run/memory.sock`);
    expect((await h.service.drives.get(h.caller, drive.id)).exported).toBe(true);
    for (const writable of [true, false]) {
      const second = h.service.exports.create(h.caller, { of: { drive: drive.id, writable }, transport: unix });
      expect(await codeOf(second)).toMatchObject({ code: 'drive_exported', details: { blocking: [writer.id] } });
    }
    expect(await codeOf(h.service.drives.delete(h.caller, drive.id, { snapshots: 'keep' }))).toMatchObject({
      code: 'drive_exported',
      details: { blocking: [writer.id] },
    });
    expect((await codeOf(h.service.drives.download(h.caller, drive.id, 'raw'))).code).toBe('drive_exported');
    await h.service.exports.close(h.caller, writer.id);
    expect(h.engine.exports.size).toBe(0);
    expect((await codeOf(h.service.exports.get(h.caller, writer.id))).code).toBe('not_found');
    const readers = [1, 2].map(() =>
      h.service.exports.create(h.caller, { of: { drive: drive.id, writable: false }, transport: unix }),
    );
    expect(new Set((await Promise.all(readers)).map((one) => one.exportName)).size).toBe(2);
    expect(await h.service.exports.list(h.caller, { driveId: drive.id })).toHaveLength(2);
  });

  it('outlive the server', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    const made = [
      await h.service.exports.create(h.caller, { of: { point: snapshot.parts[0]?.id ?? newId() }, transport: unix }),
      await h.service.exports.create(h.caller, {
        of: { drive: drive.id, writable: true },
        transport: { kind: 'tcp', host: '127.0.0.1', tls: true },
      }),
    ];
    const key = made[1]?.tlsPsk;
    expect(key?.keyHex).toHaveLength(64);
    gateway.running.clear();
    await h.crash();
    const after = await h.service.exports.list(h.caller, {});
    expect(after).toEqual(made.map(({ tlsPsk: _, ...rest }) => rest));
    expect([...gateway.running.values()][0]?.psk).toEqual(key);
  });

  it('are listed after a restart without being opened again: one may be closing', async () => {
    const drive = await h.drive();
    const of = { drive: drive.id, writable: true };
    const made = await h.service.exports.create(h.caller, { of, transport: unix });
    await h.crash();
    h.engine.exports.clear();
    expect(await h.service.exports.list(h.caller, {})).toEqual([made]);
    expect(h.engine.exports.size).toBe(0);
  });

  it('over TCP have a secret name, or TLS and a key that is shown once', async () => {
    const drive = await h.drive();
    const create = (tls: boolean, port?: number) =>
      h.service.exports.create(h.caller, {
        of: { drive: drive.id, writable: false },
        transport: { kind: 'tcp', host: '::1', tls, ...(port === undefined ? {} : { port }) },
      });
    const open = await create(false);
    expect(open.exportName).toMatch(/^[a-z2-7]{26}$/);
    expect(open.uri).toBe(`nbd://[::1]:10809/${open.exportName}`);
    expect(open.tlsPsk).toBeUndefined();
    const closed = await create(true, 9000);
    expect(closed.uri).toMatch(/^nbds:\/\/\[::1\]:9000\//);
    expect(closed.tlsPsk).toMatchObject({ identity: 'calotype' });
    expect((await h.service.exports.get(h.caller, closed.id)).tlsPsk).toBeUndefined();
    await h.service.exports.close(h.caller, closed.id);
    expect([...gateway.running.keys()]).toEqual([open.id]);
  });

  it('without TLS stay on loopback, unless an operator says otherwise', async () => {
    const drive = await h.drive();
    const input = {
      of: { drive: drive.id, writable: false },
      transport: { kind: 'tcp', host: '192.0.2.10', tls: false },
    } as const;
    expect((await codeOf(h.service.exports.create(await h.person('mia', 'admin'), input))).code).toBe('forbidden');
    expect(h.engine.exports.size).toBe(0);
    const operator = { ...h.caller, role: 'operator' } as const;
    expect((await h.service.exports.create(operator, input)).uri).toMatch(/^nbd:\/\/192\.0\.2\.10:/);
  });

  it('leave nothing behind when the port cannot be had', async () => {
    const drive = await h.drive();
    gateway.broken = true;
    const attempt = h.service.exports.create(h.caller, {
      of: { drive: drive.id, writable: true },
      transport: { kind: 'tcp', host: '127.0.0.1', port: 80, tls: false },
    });
    expect((await codeOf(attempt)).code).toBe('internal');
    expect(h.engine.exports.size).toBe(0);
    expect(await h.service.exports.list(h.caller, {})).toEqual([]);
    await h.done(await h.service.drives.delete(h.caller, drive.id, { snapshots: 'refuse' }));
  });

  it('are opened once per idempotency key', async () => {
    const drive = await h.drive();
    const options = { idempotency: { key: 'k', requestHash: 'h' } };
    const input = { of: { drive: drive.id, writable: true }, transport: unix };
    const [a, b] = await Promise.all([1, 2].map(() => h.service.exports.create(h.caller, input, options)));
    expect(a?.id).toBe(b?.id);
  });

  it('need the right to write for writing, and to read for reading', async () => {
    const drive = await h.drive();
    const guest = await h.person('gus', 'guest');
    const open = (writable: boolean) =>
      h.service.exports.create(guest, { of: { drive: drive.id, writable }, transport: unix });
    expect((await codeOf(open(false))).code).toBe('not_found');
    await h.grant(guest, drive.id, 'ro');
    expect((await codeOf(open(true))).code).toBe('forbidden');
    const reader = await open(false);
    await h.service.exports.close(guest, reader.id);
    const mine = await h.service.exports.create(h.caller, { of: { drive: drive.id, writable: true }, transport: unix });
    expect((await codeOf(h.service.exports.close(guest, mine.id))).code).toBe('forbidden');
    const stranger = await h.person('mallory', 'member', await h.project('elsewhere'));
    expect((await codeOf(h.service.exports.close(stranger, mine.id))).code).toBe('not_found');
    expect(await h.service.exports.list(stranger, {})).toEqual([]);
  });
});

it('without a gateway, TCP is refused', async () => {
  const plain = await Harness.start();
  try {
    const drive = await plain.drive();
    const attempt = plain.service.exports.create(plain.caller, {
      of: { drive: drive.id, writable: true },
      transport: { kind: 'tcp', host: '127.0.0.1', tls: true },
    });
    expect((await codeOf(attempt)).code).toBe('not_supported');
  } finally {
    await plain.stop();
  }
});
