import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { CatalogEvent } from '../core/model.ts';
import { Harness } from './testing/harness.ts';

let h: Harness;
beforeEach(async () => {
  h = await Harness.start();
});
afterEach(() => h.stop());

const kinds = (events: readonly CatalogEvent[]): string[] => events.map((event) => event.kind);

describe('events', () => {
  it('tell who did what to which object, in order', async () => {
    const drive = await h.drive();
    const snapshot = await h.snapshot([drive.id]);
    await h.service.drives.update(h.caller, drive.id, { name: 'other' });
    await h.done(await h.service.snapshots.delete(h.caller, snapshot.id));
    const events = await h.service.events.list(h.caller, {});
    expect(kinds(events)).toEqual([
      'drive.create.requested',
      'drive.created',
      'snapshot.created',
      'drive.updated',
      'snapshot.delete.requested',
      'snapshot.deleted',
      'snapshot.delete.done',
    ]);
    expect(events[2]).toMatchObject({
      userId: h.caller.userId,
      via: 'native',
      objectKind: 'snapshot',
      objectId: snapshot.id,
    });
    expect(events.map((event) => event.seq)).toEqual([...events.map((event) => event.seq)].sort((a, b) => a - b));
    const later = await h.service.events.list(h.caller, { afterSeq: events[4]?.seq ?? 0 });
    expect(kinds(later)).toEqual(['snapshot.deleted', 'snapshot.delete.done']);
    expect(kinds(await h.service.events.list(h.caller, { objectId: snapshot.id, limit: 2 }))).toEqual([
      'snapshot.created',
      'snapshot.delete.requested',
    ]);
  });

  it('reach subscribers after the commit, in order, with a replay before', async () => {
    const drive = await h.drive();
    const first = (await h.service.events.list(h.caller, {}))[0];
    const seen: CatalogEvent[] = [];
    const live: CatalogEvent[] = [];
    const stop = await h.service.events.subscribe(h.caller, first?.seq ?? 0, (event) => seen.push(event));
    const stopLive = await h.service.events.subscribe(h.caller, null, (event) => live.push(event));
    for (let i = 0; i < 20; i++) await h.snapshot([drive.id]);
    await expect.poll(() => seen.length).toBe(21);
    await expect.poll(() => live.length).toBe(20);
    expect(kinds(seen)).toEqual(['drive.created', ...Array.from({ length: 20 }, () => 'snapshot.created')]);
    expect(live).toEqual(seen.slice(1));
    stop();
    stopLive();
    await h.snapshot([drive.id]);
    const late: CatalogEvent[] = [];
    await h.service.events.subscribe(h.caller, null, (event) => late.push(event));
    await h.snapshot([drive.id]);
    await expect.poll(() => late.length).toBe(1);
    expect([seen.length, live.length]).toEqual([21, 20]);
  });

  it('show guests only what is theirs, and others nothing', async () => {
    const [mine, granted] = [await h.drive('mine'), await h.drive('granted')];
    const guest = await h.person('gus', 'guest');
    const stranger = await h.person('mallory', 'member', await h.project('elsewhere'));
    await h.grant(guest, granted.id, 'ro');
    const seen: CatalogEvent[] = [];
    await h.service.events.subscribe(guest, 0, (event) => seen.push(event));
    await h.snapshot([mine.id]);
    const theirs = await h.snapshot([granted.id]);
    await expect.poll(() => seen.length).toBe(3);
    expect(seen.map((event) => event.objectId)).toEqual([granted.id, granted.id, theirs.id]);
    expect(await h.service.events.list(stranger, {})).toEqual([]);
    expect(await h.service.events.list(guest, {})).toEqual(seen);
  });

  it('of long ago are dropped', async () => {
    const drive = await h.drive();
    await h.catalog.db.updateTable('events').set({ at: 1 }).execute();
    await h.snapshot([drive.id]);
    await h.restart();
    await expect.poll(async () => kinds(await h.service.events.list(h.caller, {}))).toEqual(['snapshot.created']);
  });
});
