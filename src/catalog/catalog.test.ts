import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Catalog, putSetting } from './catalog.ts';
import { migrations } from './migrations.ts';

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'cal-'));
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

describe('the catalog', () => {
  it('keeps what was written across opens', async () => {
    const first = await Catalog.open(directory);
    await first.write((tx) => putSetting(tx, 'a', '1'));
    await first.close();
    const second = await Catalog.open(directory);
    expect(await second.setting('a')).toBe('1');
    await second.close();
  });

  it('refuses a catalog that a newer program wrote, and leaves it as it is', async () => {
    await (await Catalog.open(directory)).close();
    const raw = new DatabaseSync(join(directory, 'catalog.db'));
    raw.exec(`pragma user_version = ${migrations.length + 1}`);
    raw.close();
    await expect(Catalog.open(directory)).rejects.toMatchObject({ code: 'catalog_too_new' });
  });

  it('says that a damaged file cannot be opened', async () => {
    const { writeFileSync } = await import('node:fs');
    writeFileSync(
      join(directory, 'catalog.db'),
      'this is not a database, but it is long enough to look at'.repeat(100),
    );
    await expect(Catalog.open(directory)).rejects.toMatchObject({ code: 'catalog_damaged' });
  });

  it('lets writers that come together share a commit, and one failure touch nobody else', async () => {
    const catalog = await Catalog.open(directory);
    const results = await Promise.allSettled(
      Array.from({ length: 40 }, (_, n) =>
        catalog.write(async (tx) => {
          await putSetting(tx, `k${n}`, 'written');
          if (n % 7 === 3) throw new Error(`no ${n}`);
          return n;
        }),
      ),
    );
    for (const [n, result] of results.entries()) {
      const fails = n % 7 === 3;
      expect(result.status).toBe(fails ? 'rejected' : 'fulfilled');
      expect(await catalog.setting(`k${n}`)).toBe(fails ? undefined : 'written');
    }
    await catalog.close();
  });

  it('resolves a write only when a second connection can see it', async () => {
    const catalog = await Catalog.open(directory);
    const other = new DatabaseSync(join(directory, 'catalog.db'));
    await Promise.all(
      Array.from({ length: 20 }, async (_, n) => {
        await catalog.write((tx) => putSetting(tx, `k${n}`, 'x'));
        expect(other.prepare('select value from settings where key = ?').get(`k${n}`)).toEqual({ value: 'x' });
      }),
    );
    other.close();
    await catalog.close();
  });
});
