/** What answers look like, key by key. Held against every answer of the tests. */
import Type, { type TProperties, type TSchema } from 'typebox';
import { machineColumns } from './machine-columns.ts';

const exactly = <P extends TProperties>(properties: P) => Type.Object(properties, { additionalProperties: false });
const text = Type.String();
const count = Type.Integer({ minimum: 0 });
const flag = Type.Boolean();
const href = Type.String({ pattern: '^https?://[^/]+(/manageiq)?/api(/v4\\.4\\.0-pre)?(/|$|\\?)' });
/** Decimal digits: never a number. */
const id = Type.String({ pattern: '^\\d+$' });
const uuid = Type.String({ pattern: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' });
const time = Type.String({ pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ$' });
const orNull = <S extends TSchema>(schema: S) => Type.Union([schema, Type.Null()]);

const actions = Type.Array(exactly({ name: text, method: Type.Enum(['post', 'delete']), href }), { minItems: 1 });

const snapshotColumns = {
  id,
  uid: uuid,
  parent_uid: orNull(uuid),
  name: text,
  description: orNull(text),
  current: Type.Enum([0, 1]),
  total_size: orNull(count),
  filename: Type.Null(),
  create_time: time,
  disks: Type.Array(Type.Never()),
  created_on: time,
  updated_on: time,
  parent_id: orNull(id),
  vm_or_template_id: id,
  uid_ems: uuid,
  ems_ref: uuid,
  ems_ref_type: Type.Null(),
  type: text,
};
/** Without a reference, as associations have them. */
const bareSnapshot = exactly(snapshotColumns);

const knownOfMachine: TProperties = {
  id,
  vendor: text,
  name: text,
  description: orNull(text),
  guid: uuid,
  uid_ems: uuid,
  ems_ref: uuid,
  power_state: Type.Enum(['on', 'off', 'paused']),
  raw_power_state: text,
  connection_state: text,
  template: flag,
  cloud: flag,
  type: text,
  created_on: time,
  updated_on: time,
  boot_time: orNull(time),
  ems_created_on: time,
};
const machineProperties: TProperties = Object.fromEntries(
  machineColumns.map(({ name }) => [name, knownOfMachine[name] ?? Type.Null()]),
);

const taskColumns = {
  id,
  name: text,
  state: Type.Enum(['Initialized', 'Queued', 'Active', 'Finished']),
  status: Type.Enum(['Ok', 'Warn', 'Error', 'Timeout']),
  message: text,
  userid: orNull(text),
  created_on: time,
  updated_on: time,
  started_on: orNull(time),
  pct_complete: orNull(Type.Integer({ minimum: 0, maximum: 100 })),
  context_data: Type.Null(),
  results: Type.Null(),
  miq_server_id: id,
  identifier: Type.Null(),
  zone: text,
};

const volumeColumns = {
  id,
  type: text,
  ems_ref: uuid,
  size: count,
  ems_id: Type.Null(),
  availability_zone_id: Type.Null(),
  cloud_volume_snapshot_id: orNull(id),
  name: text,
  status: text,
  description: orNull(text),
  volume_type: Type.Null(),
  bootable: Type.Null(),
  creation_time: time,
  cloud_tenant_id: Type.Null(),
  iops: Type.Null(),
  encrypted: flag,
};

const volumeSnapshotColumns = {
  id,
  type: text,
  ems_ref: uuid,
  ems_id: Type.Null(),
  cloud_volume_id: orNull(id),
  name: text,
  description: orNull(text),
  status: text,
  creation_time: time,
  size: count,
  cloud_tenant_id: Type.Null(),
  encrypted: flag,
};

/** Virtual attributes and what `expand` adds, where they were asked for. */
const extras: Readonly<Record<string, TProperties>> = {
  vms: {
    v_total_snapshots: count,
    snapshots: Type.Array(Type.Union([bareSnapshot, exactly({ href, ...snapshotColumns })])),
  },
  snapshots: {
    parent: orNull(Type.Partial(bareSnapshot)),
    children: Type.Array(bareSnapshot),
    vm_or_template: Type.Partial(exactly(machineProperties)),
  },
  tasks: { state_or_status: text },
  cloud_volumes: {
    cloud_volume_snapshots: Type.Array(
      Type.Union([exactly(volumeSnapshotColumns), exactly({ href, ...volumeSnapshotColumns })]),
    ),
  },
  cloud_volume_snapshots: { cloud_volume: orNull(Type.Partial(exactly(volumeColumns))) },
};

const columns: Readonly<Record<string, TProperties>> = {
  vms: machineProperties,
  instances: machineProperties,
  snapshots: snapshotColumns,
  tasks: taskColumns,
  cloud_volumes: volumeColumns,
  cloud_volume_snapshots: volumeSnapshotColumns,
};

export type CollectionName = keyof typeof columns;

/** `chosen`: with `attributes`, so that not every column is there, and others may be. */
export function resourceSchema(collection: string, chosen: boolean): TSchema {
  const own = columns[collection === 'instances' ? 'vms' : collection] ?? {};
  if (!chosen) {
    const more = extras[collection === 'instances' ? 'vms' : collection] ?? {};
    const expanded = Object.fromEntries(Object.entries(more).map(([name, schema]) => [name, Type.Optional(schema)]));
    return exactly({ href, ...own, ...expanded, actions: Type.Optional(actions) });
  }
  const all = { ...own, ...(extras[collection === 'instances' ? 'vms' : collection] ?? {}) };
  const some = Object.fromEntries(Object.entries(all).map(([name, schema]) => [name, Type.Optional(schema)]));
  return Type.Object({ href, ...some, id, href_slug: Type.Optional(text), actions: Type.Optional(actions) });
}

export function listSchema(collection: string, chosen: boolean): TSchema {
  const entry = Type.Union([exactly({ href }), resourceSchema(collection, chosen)]);
  return exactly({
    name: Type.Literal(collection),
    count,
    subcount: count,
    subquery_count: Type.Optional(count),
    pages: count,
    resources: Type.Optional(Type.Array(entry)),
    actions: Type.Optional(actions),
    links: exactly({
      self: href,
      next: Type.Optional(href),
      previous: Type.Optional(href),
      first: href,
      last: href,
    }),
  });
}

/** What `query` answers. */
export function foundSchema(collection: string, chosen: boolean): TSchema {
  return exactly({ results: Type.Array(resourceSchema(collection, chosen)) });
}

const failed = exactly({ success: Type.Literal(false), message: text, href: Type.Optional(href) });
const begun = exactly({
  success: Type.Literal(true),
  message: text,
  task_id: Type.Optional(id),
  task_href: Type.Optional(href),
  href: Type.Optional(href),
});
export const actionResultSchema: TSchema = Type.Union([begun, failed]);
export const resultsSchema: TSchema = exactly({
  results: Type.Array(orNull(actionResultSchema), { minItems: 1 }),
});

export const errorSchema: TSchema = Type.Union([
  exactly({ error: exactly({ kind: text, message: text, klass: text }) }),
  exactly({ status: Type.Literal(404), error: Type.Literal('Not Found') }),
]);

export const tokenSchema: TSchema = exactly({
  auth_token: Type.String({ pattern: '^[0-9a-f]{32}$' }),
  token_ttl: count,
  expires_on: time,
  requester_type: Type.Optional(text),
});

export const optionsSchema: TSchema = exactly({
  attributes: Type.Array(text),
  virtual_attributes: Type.Array(text),
  relationships: Type.Array(text),
  subcollections: Type.Array(text),
  data: Type.Object({}),
});

export const productSchema: TSchema = exactly({
  name: text,
  name_full: text,
  copyright: text,
  support_website: text,
  support_website_text: text,
  branding_info: exactly({}),
  authentication: exactly({ mode: text, oidc_enabled: flag, saml_enabled: flag, sso_enabled: flag }),
});

export const entrySchema: TSchema = exactly({
  name: Type.Literal('API'),
  description: text,
  version: Type.Literal('4.4.0-pre'),
  versions: Type.Array(exactly({ name: text, href }), { minItems: 1 }),
  settings: exactly({ locale: text, asynchronous_notifications: flag }),
  identity: exactly({
    userid: text,
    name: text,
    user_href: href,
    group: text,
    group_href: href,
    role: text,
    role_href: href,
    tenant: text,
    groups: Type.Array(text, { minItems: 1 }),
    miq_groups: Type.Array(exactly({ href, id, description: text }), { minItems: 1 }),
  }),
  server_info: exactly({
    version: text,
    build: text,
    release: text,
    appliance: text,
    time,
    server_href: href,
    zone_href: href,
    region_href: href,
    enterprise_href: href,
    plugins: exactly({}),
  }),
  timezones: Type.Array(exactly({ name: text, description: text })),
  product_info: productSchema,
  collections: Type.Array(exactly({ name: text, href, description: text })),
  authorization: Type.Optional(
    exactly({
      product_features: Type.Record(text, exactly({ name: text, description: text, href })),
    }),
  ),
});
