/**
 * The dialects' rates with 100,000 snapshots in the catalog, against a bare Fastify route that answers a constant of the
 * same size in the same run; ManageIQ's query language; memory over a million requests.
 */
import { type DialectName, dialectNames } from '../src/dialects/dialect.ts';
import { fillCatalog, idOf } from './filled-catalog.ts';
import { rateOf, startBare } from './http-rate.ts';
import { BenchServer, ms, percentile, type Row, temporaryDirectory, timed } from './support.ts';

const snapshots = 100_000;
const machines = 100;
const listed = 20;
/** Of the project with few: where a dialect cannot page, its whole list is a page. */
const few = 'few';
const series = 1;
const rounds = 3;
const millionRequests = 1_000_000;

interface Probe {
  /** One object; a list of twenty. */
  readonly single: string;
  readonly list: string;
  readonly headers: Readonly<Record<string, string>>;
}

interface Credentials {
  readonly basic: string;
  readonly fewBasic: string;
  readonly token: string;
}

function probesOf({ basic, fewBasic, token }: Credentials): Readonly<Record<DialectName, Probe>> {
  const part = idOf('part', 1234);
  return {
    manageiq: {
      single: '/api/vms/35/snapshots/1235',
      list: `/api/vms/35/snapshots?expand=resources&limit=${listed}`,
      headers: { Authorization: basic, Accept: 'application/json' },
    },
    cloudsigma: {
      single: `/api/2.0/snapshots/${part}/`,
      list: `/api/2.0/snapshots/detail/?limit=${listed}`,
      headers: { Authorization: basic, Accept: 'application/json' },
    },
    // It has no call for one snapshot.
    syminet: {
      single: '/api/v1/slices/35',
      list: '/api/v1/images?page=2',
      headers: { authorization: `bearer ${token}` },
    },
    cloudmc: {
      single: `/api/v2/services/compute/default/snapshots/${part}`,
      list: `/api/v2/services/compute/default/snapshots?page_size=${listed}&page_number=1`,
      headers: { 'MC-Api-Key': token },
    },
    deltacloud: {
      single: `/api/storage_snapshots/snap-${(1235).toString(16)}`,
      list: '/api/storage_snapshots',
      headers: { Authorization: fewBasic, Accept: 'application/xml' },
    },
  };
}

export async function dialects(): Promise<Row[]> {
  const directory = temporaryDirectory('dialects');
  const first = await BenchServer.start(directory);
  const person = { name: few, password: 'a long password' };
  await first.done('POST', '/v1/projects', { name: few });
  await first.done('POST', '/v1/users', person);
  await first.done('PUT', `/v1/projects/${few}/members/${few}`, { role: 'member' });
  const made = await first.done<{ secret: string }>('POST', '/v1/tokens', { name: 'bench' });
  const admin = { name: 'admin', password: first.password };
  await first.stop();
  fillCatalog(directory, { snapshots, drives: machines, withMachines: true });
  fillCatalog(directory, { snapshots: listed, drives: 1, withMachines: true, project: few, series });

  const server = await BenchServer.start(directory);
  const basicOf = ({ name, password }: typeof person): string =>
    `Basic ${Buffer.from(`${name}:${password}`).toString('base64')}`;
  const probes = probesOf({ basic: basicOf(admin), fewBasic: basicOf(person), token: made.secret });
  // Only its list is that of the project with few.
  const single: Probe = {
    ...probes.deltacloud,
    headers: { ...probes.deltacloud.headers, Authorization: basicOf(admin) },
  };
  const rows: Row[] = [];
  for (const name of dialectNames) {
    const port = server.port + 1 + dialectNames.indexOf(name);
    const one = name === 'deltacloud' ? single : probes[name];
    rows.push(await ratio(`${name}: GET of one`, port, one.single, one.headers, 0.4));
    rows.push(await ratio(`${name}: list of ${listed}`, port, probes[name].list, probes[name].headers, 0.2));
  }
  rows.push(...(await queries(server, probes.manageiq.headers)));
  rows.push(await memory(server, probes));
  await server.stop();
  return rows;
}

async function ratio(
  what: string,
  port: number,
  path: string,
  headers: Readonly<Record<string, string>>,
  limit: number,
): Promise<Row> {
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, { headers });
  const body = await answer.text();
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${body}`);
  const bare = await startBare(port + 100, Buffer.byteLength(body));
  const ours: number[] = [];
  const floor: number[] = [];
  for (let round = 0; round < rounds; round++) {
    floor.push(await bare.rate());
    ours.push(await rateOf(port, path, headers));
  }
  bare.stop();
  const share = Math.max(...ours) / Math.max(...floor);
  return {
    what: `${what} (${Buffer.byteLength(body)} bytes)`,
    value: `${Math.max(...ours).toFixed(0)}/s`,
    ratio: `${share.toFixed(2)}×`,
    limit: `≥ ${limit}×`,
    holds: share >= limit,
  };
}

/**
 * Filter, sort and expand over all snapshots of ManageIQ's one machine, and over cloud volume snapshots: the best of some
 * rounds. A change between them has the server forget what it was asked before.
 */
async function queries(server: BenchServer, headers: Readonly<Record<string, string>>): Promise<Row[]> {
  const port = server.port + 1;
  const shapes: Readonly<Record<string, (i: number) => string>> = {
    "name='nightly-00…*', by create_time": (i) =>
      `/api/vms/${1 + (i % machines)}/snapshots?expand=resources&limit=${listed}&filter[]=name='nightly-00*'&sort_by=create_time&sort_order=desc`,
    "cloud volume snapshots: name='nightly-0NN…*', by name": (i) =>
      `/api/cloud_volume_snapshots?expand=resources&limit=${listed}&filter[]=name='nightly-0${String(10 + (i % 90))}*'&sort_by=name`,
    'cloud volume snapshots: creation_time>…, by name': () =>
      `/api/cloud_volume_snapshots?expand=resources&limit=${listed}&filter[]=creation_time>${new Date(Date.now() - 3_600_000).toISOString().slice(0, 10)}&sort_by=name`,
    'cloud volume snapshots: one volume, newest first': (i) =>
      `/api/cloud_volume_snapshots?expand=resources&limit=${listed}&filter[]=cloud_volume_id=${1 + (i % machines)}&sort_by=creation_time&sort_order=desc`,
  };
  const rows: Row[] = [];
  for (const [what, path] of Object.entries(shapes)) {
    let p99 = Number.POSITIVE_INFINITY;
    for (let round = 0; round < rounds; round++) {
      await server.done('POST', '/v1/projects', { name: `before-${rows.length}-${round}` });
      const samples: number[] = [];
      for (let i = 0; i < 300; i++) {
        const one = await timed(async () => {
          const answer = await fetch(`http://127.0.0.1:${port}${encodeURI(path(i))}`, { headers });
          if (answer.status !== 200) throw new Error(`${path(i)}: ${answer.status} ${await answer.text()}`);
          return answer.arrayBuffer();
        });
        samples.push(one.ms);
      }
      p99 = Math.min(p99, percentile(samples, 0.99));
    }
    rows.push({ what: `manageiq: ${what}, p99`, value: ms(p99), limit: '≤ 20 ms', holds: p99 <= 20 });
  }
  return rows;
}

/** Resident memory after the first tenth and after all of a million requests, of all dialects in turn. */
async function memory(server: BenchServer, probes: Readonly<Record<DialectName, Probe>>): Promise<Row> {
  let sent = 0;
  let early = 0;
  while (sent < millionRequests) {
    for (const name of dialectNames) {
      const port = server.port + 1 + dialectNames.indexOf(name);
      const seconds = 5;
      sent += seconds * (await rateOf(port, probes[name].list, probes[name].headers, seconds));
      if (early === 0 && sent >= millionRequests / 10) early = server.residentBytes();
    }
  }
  const growth = server.residentBytes() / early;
  return {
    what: `resident memory after ${Math.round(sent / 1e6)} million requests, against after a tenth`,
    value: `${(server.residentBytes() / 2 ** 20).toFixed(0)} MiB`,
    ratio: `${growth.toFixed(2)}×`,
    limit: '≤ 1.15×',
    holds: growth <= 1.15,
  };
}
