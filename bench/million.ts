/** H.3 and H.4: a catalog of 1,000,000 snapshots: pages, totals, start, memory; and the rate of single reads. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { fileURLToPath } from 'node:url';
import { BenchServer, ms, percentile, type Row, temporaryDirectory, timed } from './support.ts';

const snapshots = 1_000_000;
const drives = 1000;

/** Fills the catalog of a stopped server with rows as the service would have written them. */
function fill(directory: string): void {
  const db = new DatabaseSync(join(directory, 'catalog.db'));
  const project = db.prepare('select id from projects limit 1').get()?.id;
  db.exec('pragma synchronous = off; begin');
  const now = Date.now() * 1000;
  const id = (kind: number, n: number): string =>
    `${n.toString(16).padStart(8, '0')}-0000-4000-8${kind}00-000000000000`;
  const drive = db.prepare(
    `insert into drives (id, project_id, name, description, size_bytes, state, meta_json, sizes_stale, created_at, updated_at, version)
     values (?, ?, ?, '', 1073741824, 'available', '{}', 0, ?, ?, 1)`,
  );
  for (let i = 0; i < drives; i++) drive.run(id(1, i), project ?? '', `drive-${i}`, now, now);
  const snapshot = db.prepare(
    `insert into snapshots (id, project_id, name, description, state, meta_json, origin, consistency, complete, created_at, updated_at, version)
     values (?, ?, ?, '', ?, '{}', 'manual', 'crash', 1, ?, ?, 1)`,
  );
  const part = db.prepare(
    `insert into drive_snapshots (id, snapshot_id, drive_id, parent_id, size_bytes, changed_bytes, created_at)
     values (?, ?, ?, null, 1073741824, 4096, ?)`,
  );
  for (let i = 0; i < snapshots; i++) {
    const at = now - (snapshots - i) * 1_000_000;
    const scattered = (i * 7919) % snapshots;
    snapshot.run(
      id(2, i),
      project ?? '',
      `nightly-${String(scattered).padStart(7, '0')}`,
      i % 50 === 0 ? 'error' : 'available',
      at,
      at,
    );
    part.run(id(3, i), id(2, i), id(1, i % drives), at);
  }
  db.exec('commit; analyze; pragma wal_checkpoint(truncate)');
  db.close();
}

interface PageBody {
  items: { id: string }[];
  nextCursor: string | null;
  total?: number;
}

export async function million(): Promise<Row[]> {
  const directory = temporaryDirectory('million');
  await (await BenchServer.start(directory)).stop();
  fill(directory);
  const server = await BenchServer.start(directory);
  const rows: Row[] = [
    { what: 'ready with 1,000,000 snapshots', value: ms(server.readyMs), limit: '< 2 s', holds: server.readyMs < 2000 },
  ];
  const page = async (query: string): Promise<{ ms: number; body: PageBody }> => {
    const one = await timed(() => server.call('GET', `/v1/snapshots?limit=100&${query}`));
    if (one.result.status !== 200) throw new Error(JSON.stringify(one.result.body));
    return { ms: one.ms, body: one.result.body as PageBody };
  };
  const p99 = async (query: (i: number) => string, times = 100): Promise<number> => {
    const samples: number[] = [];
    for (let i = 0; i < times; i++) samples.push((await page(query(i))).ms);
    return percentile(samples, 0.99);
  };
  const check = (what: string, value: number, limit: number): void => {
    rows.push({ what, value: ms(value), limit: `≤ ${limit} ms`, holds: value <= limit });
  };
  await page('state=available&sort=name');
  for (const filter of ['state=available&sort=name', 'state=error&sort=created&order=desc', 'sort=name&order=desc']) {
    const samples: number[] = [];
    let cursor: string | null = null;
    for (let i = 0; i < 200; i++) {
      const one: { ms: number; body: PageBody } = await page(`${filter}${cursor === null ? '' : `&cursor=${cursor}`}`);
      samples.push(one.ms);
      cursor = one.body.nextCursor;
      if (cursor === null) break;
    }
    check(`page of 100 by key (${filter}), p99`, percentile(samples, 0.99), 15);
  }
  check(
    'page of 100 by key, filtered by drive, p99',
    await p99(
      (i) => `driveId=${String((i * 7).toString(16)).padStart(8, '0')}-0000-4000-8100-000000000000&sort=created`,
    ),
    15,
  );
  check('page by offset up to 10,000, p99', await p99((i) => `state=available&sort=name&offset=${i * 100}`), 15);
  check(
    'page by offset up to 979,000, p99',
    await p99((i) => `state=available&sort=name&offset=${900_000 + i * 790}`, 40),
    150,
  );
  check('exact total, state=available, p99', await p99(() => 'state=available&sort=name&total=true', 30), 60);
  check('exact total, no filter, p99', await p99(() => 'sort=created&total=true', 30), 60);
  check(
    'exact total, one drive, p99',
    await p99(() => 'driveId=00000007-0000-4000-8100-000000000000&total=true', 30),
    60,
  );
  check(
    'exact total, state and time, p99',
    await p99(
      () => `state=available&createdFrom=${new Date(Date.now() - 500_000_000).toISOString()}&sort=created&total=true`,
      30,
    ),
    60,
  );
  check(
    'name contains, page and total, p99',
    await p99((i) => `nameContains=${1000 + i}&sort=name&total=true`, 20),
    150,
  );
  const resident = server.residentBytes() / 1024 / 1024;
  rows.push({
    what: 'resident memory of the server',
    value: `${resident.toFixed(0)} MiB`,
    limit: '< 300 MiB',
    holds: resident < 300,
  });
  rows.push(...(await singleReads(server)));
  await server.stop();
  return rows;
}

/** Requests per second of a bare Fastify route that answers a constant of the same size, and of ours. */
async function singleReads(server: BenchServer): Promise<Row[]> {
  const path = '/v1/snapshots/000004d2-0000-4000-8200-000000000000';
  const answer = await server.call('GET', path);
  if (answer.status !== 200) throw new Error(JSON.stringify(answer.body));
  const size = Buffer.byteLength(JSON.stringify(answer.body));
  const port = server.port + 50;
  const bare = spawn(
    process.execPath,
    [fileURLToPath(new URL('bare-fastify.ts', import.meta.url)), String(port), String(size)],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  await new Promise((resolve) => bare.stdout.once('data', resolve));
  const rate = async (atPort: number, atPath: string): Promise<number> => {
    const load = spawn(process.execPath, [
      ...[fileURLToPath(new URL('http-load.ts', import.meta.url)), String(atPort), atPath, server.token],
    ]);
    let text = '';
    load.stdout.on('data', (part: Buffer) => {
      text += part.toString();
    });
    await new Promise((resolve) => load.once('exit', resolve));
    return Number(text);
  };
  const ours: number[] = [];
  const floor: number[] = [];
  for (let i = 0; i < 3; i++) {
    floor.push(await rate(port, '/'));
    ours.push(await rate(server.port, path));
  }
  bare.kill();
  const ratio = Math.max(...ours) / Math.max(...floor);
  return [
    { what: 'bare Fastify, constant of the same size', value: `${Math.max(...floor).toFixed(0)}/s` },
    {
      what: 'GET of one snapshot',
      value: `${Math.max(...ours).toFixed(0)}/s`,
      ratio: `${ratio.toFixed(2)}×`,
      limit: '≥ 0.5×',
      holds: ratio >= 0.5,
    },
  ];
}
