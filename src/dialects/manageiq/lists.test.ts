/** The query language on real lists, through HTTP. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { TestClient, told } from './testing/client.ts';

let client: TestClient;
let vm: Awaited<ReturnType<TestClient['machine']>>;
let app: typeof vm;
let path: string;
/** Of each snapshot by name. */
const ids = new Map<string, string>();
let createdOn: string;

beforeAll(async () => {
  client = await TestClient.start();
  vm = await client.machine('web01');
  app = await client.machine('app01', 'instance');
  path = `/api/vms/${vm.number}/snapshots`;
  for (const [name, description] of [
    ['Alpha', 'first'],
    ['beta', ''],
    ['gamma*', 'it is 50% done'],
    ['delta', 'null'],
    ["o'brien = 5", ''],
  ] as const) {
    await client.done(path, { name, description });
  }
  await client.done(`/api/vms/${app.number}/snapshots`, { name: 'elsewhere' });
  const { json } = await client.get(`${path}?expand=resources`);
  for (const { id, name } of json.resources) ids.set(name, id);
  createdOn = json.resources[0].created_on;
});
afterAll(() => client[Symbol.asyncDispose]());

function query(...filters: string[]): string {
  return filters.map((filter) => `&filter[]=${encodeURIComponent(filter)}`).join('');
}

async function matching(...filters: string[]): Promise<string[]> {
  return client.names(`${path}?expand=resources${query(...filters)}`);
}

const refusal = async (filter: string, address = path): Promise<unknown> =>
  told(await client.get(`${address}?expand=resources${query(filter)}`));

describe('filters', () => {
  test('equality and inequality, quoted or not', async () => {
    for (const filter of ['name=beta', "name='beta'", 'name = "beta"', '  name  =  beta  ']) {
      expect(await matching(filter), filter).toEqual(['beta']);
    }
    expect(await matching('name=BETA')).toEqual([]);
    expect(await matching('name!=beta')).toEqual(['Alpha', 'gamma*', 'delta', "o'brien = 5"]);
    expect(await matching("name=o'brien = 5")).toEqual(["o'brien = 5"]);
  });

  test('wildcards, quoted or not', async () => {
    for (const filter of ["name='%a'", 'name=*a', "name='*a'"]) {
      expect(await matching(filter), filter).toEqual(['Alpha', 'beta', 'delta']);
    }
    expect(await matching("name='%et%'")).toEqual(['beta']);
    expect(await matching("name='a*'")).toEqual([]);
    expect(await matching("name!='%a'")).toEqual(['gamma*', "o'brien = 5"]);
    expect(await matching("description!='first*'")).toEqual(['beta', 'gamma*', 'delta', "o'brien = 5"]);
  });

  test('== and !== take no wildcards', async () => {
    expect(await matching("name=='gamma*'")).toEqual(['gamma*']);
    expect(await matching('name==gam*')).toEqual([]);
    expect(await matching("name!=='gamma*'")).toEqual(['Alpha', 'beta', 'delta', "o'brien = 5"]);
  });

  test('regular expressions', async () => {
    expect(await matching('name=~/^[ab]/')).toEqual(['beta']);
    expect(await matching('name=~/^[ab]/i')).toEqual(['Alpha', 'beta']);
    expect(await matching("name!~'/a$/'")).toEqual(['gamma*', "o'brien = 5"]);
    expect(await refusal('name=~/(/')).toEqual([400, expect.stringMatching(/regular expression/)]);
    expect(await refusal('name=~beta')).toEqual([400, expect.stringMatching(/regular expression/)]);
  });

  test('ordering', async () => {
    expect(await matching('name<b')).toEqual(['Alpha']);
    expect(await matching("name>='gamma'")).toEqual(['gamma*', "o'brien = 5"]);
    const beta = ids.get('beta');
    expect(await matching(`id<=${beta}`)).toEqual(['Alpha', 'beta']);
    expect(await matching(`id>'${beta}'`)).toEqual(['gamma*', 'delta', "o'brien = 5"]);
  });

  test('ids as numbers and as text', async () => {
    const id = ids.get('delta');
    for (const filter of [`id=${id}`, `id='${id}'`, `id = "${id}"`]) expect(await matching(filter)).toEqual(['delta']);
    expect(await matching('id=abc')).toEqual([]);
    expect(await matching(`id=[${ids.get('beta')},${id}]`)).toEqual(['beta', 'delta']);
  });

  test('NULL and nil in any case, but not in quotes', async () => {
    for (const filter of ['description=NULL', 'description=nil', 'description=Null', 'description==null']) {
      expect(await matching(filter), filter).toEqual(['beta', "o'brien = 5"]);
    }
    expect(await matching('description!=NULL')).toEqual(['Alpha', 'gamma*', 'delta']);
    expect(await matching("description='null'")).toEqual(['delta']);
    // A plain inequality does not meet what is not known.
    expect(await matching('description!=first')).toEqual(['gamma*', 'delta']);
    expect(await matching('parent_id=NULL')).toEqual(['Alpha']);
    expect(await matching('filename=NULL', 'name=beta')).toEqual(['beta']);
    expect(await matching('filename!=NULL')).toEqual([]);
  });

  test('arrays', async () => {
    expect(await matching('name=[Alpha,delta,none]')).toEqual(['Alpha', 'delta']);
    expect(await matching('name=[Alpha, delta]')).toEqual(['Alpha']);
    expect(await refusal('name!=[Alpha]')).toEqual([400, 'Unsupported operator for arrays: !=']);
    expect(await refusal('id<[1]')).toEqual([400, 'Unsupported operator for arrays: <']);
  });

  test('words of the dialect: current, power_state, cloud, type, constants', async () => {
    expect(await matching('current=1')).toEqual(["o'brien = 5"]);
    expect(await matching('current!=1', 'id>0')).toEqual(['Alpha', 'beta', 'gamma*', 'delta']);
    const vms = (filter: string) => client.names(`/api/vms?expand=resources${query(filter)}`);
    expect(await vms('power_state=off')).toEqual(['web01', 'app01']);
    expect(await vms("power_state='o*'")).toEqual(['web01', 'app01']);
    expect(await vms('power_state=~/^ON$/i')).toEqual([]);
    expect(await vms('power_state=[on,paused]')).toEqual([]);
    expect(await vms('cloud=true')).toEqual(['app01']);
    expect(await vms("type='*CloudManager*'")).toEqual(['app01']);
    expect(await vms('template=true')).toEqual([]);
    expect(await vms('ems_id=NULL')).toEqual(['web01', 'app01']);
    expect(await vms('v_total_snapshots>1')).toEqual(['web01']);
    expect(await vms(`guid=${app.id}`)).toEqual(['app01']);
  });

  test('times: unquoted only with three operators, a day as a whole', async () => {
    const day = createdOn.slice(0, 10);
    const all = ['Alpha', 'beta', 'gamma*', 'delta', "o'brien = 5"];
    // The day may have ended meanwhile.
    expect((await matching(`create_time=${day}`)).slice(0, 1)).toEqual(['Alpha']);
    expect(await matching('create_time>2020-01-01')).toEqual(all);
    expect(await matching('create_time<2020-01-01')).toEqual([]);
    expect(await matching(`create_time<${day}`)).toEqual([]);
    expect(await matching(`create_time=${createdOn}`)).toContain('Alpha');
    expect(await matching(`create_time>='${createdOn}'`)).toEqual(all);
    expect(await matching(`create_time<'${createdOn}'`)).toEqual([]);
    expect(await matching(`create_time!='2020-01-01'`)).toEqual(all);
    expect(await refusal('create_time<=2020-01-01')).toEqual([400, 'Unsupported operator for datetime: <=']);
    expect(await refusal('create_time!=2020-01-01')).toEqual([400, 'Unsupported operator for datetime: !=']);
    for (const bad of ['foobar', '2026-02-30', '2026-13-01', '26-1-1']) {
      expect(await refusal(`create_time>${bad}`)).toEqual([400, `Bad format for datetime: ${bad}`]);
    }
  });

  test('times that are not known of any are times all the same', async () => {
    const vms = (filter: string) => client.names(`/api/vms?expand=resources${query(filter)}`);
    for (const name of ['retires_on', 'last_scan_on', 'state_changed_on']) {
      for (const operator of ['<=', '>=', '!=']) {
        const refused = await refusal(`${name} ${operator} 2016-01-03`, '/api/vms');
        expect(refused).toEqual([400, `Unsupported operator for datetime: ${operator}`]);
      }
      expect(await refusal(`${name} > foobar`, '/api/vms')).toEqual([400, 'Bad format for datetime: foobar']);
      for (const filter of ['= 2016-01-02', '> 2016-01-01T07:59:59Z', "<='2016-01-03'", "!='2016-01-03'", '!=NULL']) {
        expect(await vms(name + filter), filter).toEqual([]);
      }
      expect(await vms(`${name}=NULL`)).toEqual(['web01', 'app01']);
    }
    expect((await client.get('/api/vms?sort_by=retires_on,name')).status).toBe(200);
  });

  test('all without or together, or any with or, in whatever order', async () => {
    expect(await matching('name=*a', 'name!=beta')).toEqual(['Alpha', 'delta']);
    expect(await matching('or name=beta', 'name=*a', 'OR name=gamma*', 'description=first')).toEqual([
      'Alpha',
      'beta',
      'gamma*',
    ]);
    expect(await matching('or name=beta', 'or name=delta')).toEqual(['beta', 'delta']);
  });

  test('associations, one away', async () => {
    expect(await matching('parent.name=beta')).toEqual(['gamma*']);
    expect(await matching("parent.name='*a'")).toEqual(['beta', 'gamma*', "o'brien = 5"]);
    expect(await matching(`parent.id=${ids.get('Alpha')}`)).toEqual(['beta']);
    expect(await matching("vm_or_template.name='web*'")).toHaveLength(5);
    expect(await matching('vm_or_template.name=app01')).toEqual([]);
    expect(await matching('vm_or_template.power_state=off', 'name=beta')).toEqual(['beta']);
    // Machines here have no host, so that nothing is met by what is asked of it.
    expect(await client.names(`/api/vms?expand=resources${query("host.name='foo'")}`)).toEqual([]);
    expect(await client.names(`/api/vms?expand=resources${query('host.name=NULL', "vendor_display!='V*'")}`)).toEqual([
      'web01',
      'app01',
    ]);
    expect(await refusal('bogus.name=x', '/api/vms')).toEqual([400, 'attribute Vm.bogus-name does not exist']);
    expect(await refusal('vm_or_template.host.name=x')).toEqual([
      400,
      'Filtering of attributes with more than one association away is not supported',
    ]);
  });

  test('what there is not', async () => {
    expect(await refusal('bogus=1')).toEqual([400, 'attribute Snapshot-bogus does not exist']);
    expect(await refusal('bogus=1', '/api/vms')).toEqual([400, 'attribute Vm-bogus does not exist']);
    expect(await refusal('bogus=1', '/api/tasks')).toEqual([400, 'attribute MiqTask-bogus does not exist']);
    expect(await refusal('name^bb')).toEqual([400, 'Unknown operator specified in filter name^bb']);
    expect(await refusal('name')).toEqual([400, 'Unknown operator specified in filter name']);
  });

  test('without brackets, and with encoded ones', async () => {
    expect(await client.names(`${path}?expand=resources&filter=name='beta'`)).toEqual(['beta']);
    expect(await client.names(`${path}?expand=resources&filter%5B%5D=name%3D%27beta%27&filter[]=`)).toEqual(['beta']);
    expect((await client.get(`${path}?filter[]=%`)).status).toBe(400);
  });
});

describe('attributes', () => {
  const keysOf = async (attributes: string, more = ''): Promise<string[]> => {
    const { json, text, status } = await client.get(`${path}/${ids.get('beta')}?attributes=${attributes}${more}`);
    expect(status, text).toBe(200);
    return Object.keys(json).sort();
  };

  test('columns leave out the rest, actions too', async () => {
    expect(await keysOf('name,current')).toEqual(['current', 'href', 'id', 'name']);
    expect(await keysOf('name,actions')).toEqual(['actions', 'href', 'id', 'name']);
    expect(await keysOf('id')).toEqual(['href', 'id']);
    expect(await keysOf('href')).toEqual(['href', 'id']);
  });

  test('virtual ones alone come beside all columns', async () => {
    const all = await keysOf('');
    expect(await keysOf('all')).toEqual(all);
    expect(await keysOf('href_slug')).toEqual([...all, 'href_slug'].sort());
    expect(await keysOf('parent.name')).toEqual([...all, 'parent'].sort());
    expect(await keysOf('name,parent.name')).toEqual(['href', 'id', 'name', 'parent']);
  });

  test('associations are walked by dots or slashes', async () => {
    const { json } = await client.get(
      `${path}/${ids.get('beta')}?attributes=parent/name,parent.id,vm_or_template.name,children,href_slug`,
    );
    expect(json).toMatchObject({
      parent: { name: 'Alpha', id: ids.get('Alpha') },
      vm_or_template: { name: 'web01' },
      href_slug: `snapshots/${ids.get('beta')}`,
    });
    expect(json.children).toHaveLength(1);
    expect(json.children[0]).toMatchObject({ id: ids.get('gamma*') });
    expect(json.children[0].href).toBeUndefined();
    const root = await client.get(`${path}/${ids.get('Alpha')}?attributes=parent`);
    expect(root.json.parent).toBeNull();
  });

  test('unknown ones are refused, also where nothing is expanded', async () => {
    for (const address of [path, `${path}/${ids.get('beta')}`]) {
      expect(told(await client.get(`${address}?attributes=name,x,y`))).toEqual([
        400,
        'Invalid attributes specified: x,y',
      ]);
    }
  });

  test('snapshots of machines: counted, oldest, newest, and all', async () => {
    const names = ['name', 'description', 'total_size', 'timestamp'];
    const wanted = ['oldest', 'newest'].flatMap((end) => names.map((name) => `v_snapshot_${end}_${name}`));
    const address = `/api/vms/${vm.number}`;
    const { json } = await client.get(`${address}?attributes=name,v_total_snapshots,snapshots,${wanted.join(',')}`);
    expect(json).toMatchObject({
      v_total_snapshots: 5,
      v_snapshot_oldest_name: 'Alpha',
      v_snapshot_oldest_description: 'first',
      v_snapshot_oldest_timestamp: createdOn,
      v_snapshot_newest_name: "o'brien = 5",
      v_snapshot_newest_description: null,
      v_snapshot_newest_total_size: 0,
    });
    expect(json.snapshots.map(({ name }: { name: string }) => name)).toEqual([...ids.keys()]);
    expect(json.snapshots[0].href).toBeUndefined();
    expect((await client.get(address)).json.snapshots).toBeUndefined();
    const bare = await client.rig.machine('bare', []);
    const none = await client.get(`/api/vms/${bare.number}?attributes=v_snapshot_newest_name,snapshots`);
    expect(none.json).toMatchObject({ v_snapshot_newest_name: null, snapshots: [] });
  });

  test('what the service UI asks for is there, if only as nothing', async () => {
    const asked =
      'advanced_settings,compliances,hardware,hardware.aggregate_cpu_speed,service.miq_request,disks,tags,ram_size,num_disks,host';
    const { status, json } = await client.get(`/api/vms/${vm.number}?attributes=${asked}`);
    expect(status).toBe(200);
    expect(json).toMatchObject({ advanced_settings: null, compliances: [], disks: [], hardware: null, num_disks: 1 });
    expect(json.ram_size).toBe(64);
  });
});

describe('expansion', () => {
  test('resources in full, each with its actions', async () => {
    const { json } = await client.get(`${path}?expand=resources`);
    expect(json.resources.every((item: { actions: unknown[] }) => item.actions.length === 3)).toBe(true);
  });

  test('subcollections by name, with references and without counts', async () => {
    for (const address of [`/api/vms/${vm.number}?expand=snapshots`, '/api/vms?expand=resources,snapshots,bogus']) {
      const { json } = await client.get(address);
      const [machine] = json.resources ?? [json];
      expect(machine.snapshots).toHaveLength(5);
      expect(machine.snapshots[0]).toMatchObject({
        href: `${client.root}/vms/${vm.number}/snapshots/${ids.get('Alpha')}`,
      });
      expect(machine.snapshots[0].actions).toBeUndefined();
    }
    expect((await client.get('/api/vms?expand=snapshots')).json.resources[0]).toEqual({
      href: `${client.root}/vms/${vm.number}`,
    });
    expect(told(await client.get(`/api/vms/${vm.number}?expand=snapshots&attributes=snapshots`))).toEqual([
      400,
      'Cannot expand subcollection snapshots by name and virtual attribute',
    ]);
  });

  test('hide=resources', async () => {
    const { json } = await client.get(`${path}?hide=resources`);
    expect(json.resources).toBeUndefined();
    expect(json.subcount).toBe(5);
  });
});

describe('sorting', () => {
  const sorted = (sort: string): Promise<string[]> => client.names(`${path}?expand=resources${sort}`);

  test('by id unless asked otherwise, then as asked', async () => {
    expect(await sorted('')).toEqual([...ids.keys()]);
    expect(await sorted('&sort_by=name')).toEqual(['Alpha', 'beta', 'delta', 'gamma*', "o'brien = 5"]);
    expect(await sorted('&sort_by=id&sort_order=descending')).toEqual([...ids.keys()].reverse());
    expect(await sorted('&sort_by=name&sort_order=desc')).toEqual(["o'brien = 5", 'gamma*', 'delta', 'beta', 'Alpha']);
    expect(await sorted('&sort_by=name&sort_order=sideways')).toEqual(await sorted('&sort_by=name'));
  });

  test('by several, pairwise', async () => {
    expect(await sorted('&sort_by=current,name&sort_order=desc,asc')).toEqual([
      "o'brien = 5",
      'Alpha',
      'beta',
      'delta',
      'gamma*',
    ]);
    const both = await client.names('/api/vms?expand=resources&sort_by=power_state,cloud,name&sort_order=asc,desc');
    expect(both.slice(0, 1)).toEqual(['app01']);
  });

  test('without regard to case, where an order was given', async () => {
    await client.done(`/api/vms/${app.number}/snapshots`, { name: 'ZETA' });
    const names = (more: string) =>
      client.names(`/api/vms/${app.number}/snapshots?expand=resources&sort_by=name&sort_options=ignore_case${more}`);
    expect(await names('')).toEqual(['ZETA', 'elsewhere']);
    expect(await names('&sort_order=asc')).toEqual(['elsewhere', 'ZETA']);
  });

  test('by what cannot be', async () => {
    expect(told(await client.get(`${path}?sort_by=x`))).toEqual([400, 'x is not a valid attribute for Snapshot']);
    expect(told(await client.get('/api/tasks?sort_by=x'))).toEqual([400, 'x is not a valid attribute for MiqTask']);
    expect(told(await client.get('/api/vms?sort_by=v_snapshot_newest_name'))).toEqual([
      400,
      'Vm cannot be sorted by v_snapshot_newest_name',
    ]);
  });
});

describe('paging and counts', () => {
  test('links follow the filtered count, one page too far at a multiple', async () => {
    const base = `${path}?expand=resources&limit=2&sort_by=name&filter[]=name='*a*'`;
    const first = (await client.get(base)).json;
    expect(first).toMatchObject({ subcount: 2, subquery_count: 4, pages: 2, count: expect.any(Number) });
    const at = (offset: number) => `${client.rig.origin('manageiq')}${base}&offset=${offset}`;
    expect(first.links).toEqual({ self: at(0), next: at(2), first: at(0), last: at(4) });
    const second = (await client.get(`${base}&offset=2`)).json;
    expect(second.links).toEqual({ self: at(2), previous: at(0), first: at(0), last: at(4) });
    expect(second.resources.map(({ name }: { name: string }) => name)).toEqual(['delta', 'gamma*']);
    expect((await client.get(`${base}&offset=1`)).json.links.previous).toBe(at(0));
    expect((await client.get(`${base}&offset=4`)).json).toMatchObject({ subcount: 0, resources: [] });
  });

  test('keys come in their order', async () => {
    const { json } = await client.get(`${path}?filter[]=id>0`);
    expect(Object.keys(json)).toEqual([
      'name',
      'count',
      'subcount',
      'subquery_count',
      'pages',
      'resources',
      'actions',
      'links',
    ]);
  });

  test('a limit above 1000 is reduced silently', async () => {
    const { status, json } = await client.get(`${path}?limit=5000&offset=0`);
    expect([status, json.subcount]).toEqual([200, 5]);
  });

  test('limits that are none', async () => {
    for (const name of ['limit', 'offset']) {
      for (const value of ['x', '-1', '1.5']) {
        expect(told(await client.get(`${path}?${name}=${value}`))).toEqual([400, `Non numeric parameter: ${name}`]);
      }
    }
    expect(told(await client.get(`${path}?limit=0`))).toEqual([
      400,
      'Limit must be greater than zero if offset is specified',
    ]);
    expect((await client.get(`${path}?offset=999999999999999999999`)).json.subcount).toBe(0);
  });

  test('count is of the collection', async () => {
    expect((await client.get('/api/instances?filter[]=name=none')).json).toMatchObject({
      count: 1,
      subcount: 0,
      subquery_count: 0,
      pages: 0,
    });
    expect((await client.get('/api/vms')).json.count).toBe((await client.get('/api/vms')).json.subcount);
  });

  test('the Ruby client finds by id, limit and expand', async () => {
    const { json } = await client.get(`/api/vms?filter[]=id=${app.number}&limit=1&expand=resources`);
    expect(json.resources.map(({ name }: { name: string }) => name)).toEqual(['app01']);
  });

  test('unknown parameters are ignored, tags and classes narrow', async () => {
    expect((await client.get('/api/vms?bogus=1&attributes=&auto_refresh=true')).status).toBe(200);
    await client.rig.native('PATCH', `/machines/${vm.id}`, { tags: ['department/finance'] });
    expect(await client.names('/api/vms?expand=resources&by_tag=/department/finance')).toEqual(['web01']);
    expect(await client.names('/api/vms?expand=resources&by_tag=/department/finance,/cc/01')).toEqual([]);
    const cloud = 'ManageIQ::Providers::CloudManager::Vm';
    expect(await client.names(`/api/vms?expand=resources&collection_class=${cloud}`)).toEqual(['app01']);
    expect(told(await client.get('/api/vms?collection_class=X'))).toEqual([
      400,
      'Invalid collection_class X specified for the vms collection',
    ]);
  });
});
