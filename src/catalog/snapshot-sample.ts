/** A look at a few snapshots, to tell what share of all meets a condition without looking at all. */
import { sql } from 'kysely';
import type { Db } from './catalog.ts';
import { allOf, type Condition, inList } from './page.ts';

const sampleSize = 200;

/** The share of snapshots, picked evenly over their numbers, that meet some conditions. */
export async function shareOf(db: Db, visible: Condition, conditions: readonly Condition[]): Promise<number> {
  const ends = await sql<{ low: number | null; high: number | null }>`
    select (select min(number) from snapshots) as low, (select max(number) from snapshots) as high`.execute(db);
  const { low, high } = ends.rows[0] ?? { low: null, high: null };
  if (low === null || high === null) return 0;
  const step = Math.max(1, Math.floor((high - low) / sampleSize));
  const numbers: number[] = [];
  for (let number = low; number <= high; number += step) numbers.push(number);
  const sample = await sql<{ seen: number; met: number }>`
    select count(*) as seen, coalesce(sum(case when ${allOf(conditions)} then 1 else 0 end), 0) as met
    from snapshots as s where ${inList(sql`s.number`, numbers)} and ${visible}`.execute(db);
  const { seen, met } = sample.rows[0] ?? { seen: 0, met: 0 };
  return seen === 0 ? 0 : met / seen;
}
