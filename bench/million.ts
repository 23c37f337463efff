/** H.3 and H.4: a catalog of 1,000,000 snapshots: pages, totals, start, memory; and the rate of single reads. */
import { fillCatalog, idOf } from './filled-catalog.ts';
import { rateOf, startBare } from './http-rate.ts';
import { BenchServer, ms, percentile, type Row, temporaryDirectory, timed } from './support.ts';

const snapshots = 1_000_000;
const drives = 1000;

interface PageBody {
  items: { id: string }[];
  nextCursor: string | null;
  total?: number;
}

export async function million(): Promise<Row[]> {
  const directory = temporaryDirectory('million');
  await (await BenchServer.start(directory)).stop();
  fillCatalog(directory, { snapshots, drives });
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
    await p99((i) => `driveId=${idOf('drive', i * 7)}&sort=created`),
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
  check('exact total, one drive, p99', await p99(() => `driveId=${idOf('drive', 7)}&total=true`, 30), 60);
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
  const path = `/v1/snapshots/${idOf('snapshot', 1234)}`;
  const answer = await server.call('GET', path);
  if (answer.status !== 200) throw new Error(JSON.stringify(answer.body));
  const size = Buffer.byteLength(JSON.stringify(answer.body));
  const bare = await startBare(server.port + 50, size);
  const ours: number[] = [];
  const floor: number[] = [];
  for (let i = 0; i < 3; i++) {
    floor.push(await bare.rate());
    ours.push(await rateOf(server.port, path, { Authorization: `Bearer ${server.token}` }));
  }
  bare.stop();
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
