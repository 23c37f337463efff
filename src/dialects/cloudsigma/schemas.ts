/** The forms of all answers, exactly: what tests hold every answer against. */
import Type, { type TProperties, type TSchema } from 'typebox';

/** Exactly these keys. */
const exact = (properties: TProperties) => Type.Object(properties, { additionalProperties: false });
const uuidPattern = '[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}';
const uuid = Type.String({ pattern: `^${uuidPattern}$` });
const uri = (kind: string) => Type.String({ pattern: `^(/cloudsigma)?/api/2\\.0/${kind}/${uuidPattern}/$` });
const linkTo = (kind: string) => exact({ resource_uri: uri(kind), uuid });
const strings = Type.Array(Type.String());
const literals = (...values: readonly string[]) => Type.Union(values.map((value) => Type.Literal(value)));
const orNull = (schema: TSchema) => Type.Union([schema, Type.Null()]);
const bytes = Type.Integer({ minimum: 0 });
const meta = Type.Record(Type.String({ maxLength: 32 }), Type.String());
const time = Type.String({ pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{6}\\+00:00$' });

const permissions = Type.Array(literals('EDIT', 'LIST'));
const sharing = {
  grantees: Type.Array(
    exact({ permissions, user: exact({ email: orNull(Type.String()), resource_uri: uri('user'), uuid }) }),
  ),
  owner: linkTo('user'),
  permissions,
};

export const snapshot = exact({
  allocated_size: orNull(bytes),
  drive: linkTo('drives'),
  ...sharing,
  meta,
  name: Type.String({ minLength: 1 }),
  resource_uri: uri('snapshots'),
  status: literals('creating', 'available', 'deleting', 'unavailable'),
  tags: Type.Array(linkTo('tags')),
  timestamp: Type.String({ pattern: '^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d\\.\\d{6}\\+00:00$' }),
  uuid,
});

const driveStatus = literals('creating', 'unmounted', 'mounted', 'cloning_dst', 'resizing', 'deleting', 'unavailable');

const driveFields = {
  affinities: strings,
  allow_multimount: Type.Boolean(),
  backup_scheduler: Type.Null(),
  ...sharing,
  iops: Type.Null(),
  jobs: Type.Array(linkTo('jobs')),
  licenses: Type.Array(Type.Unknown(), { maxItems: 0 }),
  media: literals('disk', 'cdrom'),
  meta,
  mounted_on: Type.Array(linkTo('servers')),
  name: Type.String({ minLength: 1 }),
  remote_snapshots: Type.Array(Type.Unknown(), { maxItems: 0 }),
  runtime: exact({
    is_downloadable: Type.Boolean(),
    is_ephemeral: Type.Boolean(),
    is_snapshotable: orNull(Type.Boolean()),
    snapshots_allocated_size: bytes,
    storage_type: Type.String(),
  }),
  size: bytes,
  snapshots: Type.Array(linkTo('snapshots')),
  status: driveStatus,
  storage_type: Type.String(),
  tags: Type.Array(linkTo('tags')),
  uuid,
};

export const drive = exact({ ...driveFields, resource_uri: uri('drives') });
/** A drive just cloned from a snapshot. */
export const clonedDrive = exact({ ...driveFields, resource_uri: linkTo('drives') });
export const shortDrive = exact({ owner: linkTo('user'), resource_uri: uri('drives'), status: driveStatus, uuid });

export const job = exact({
  children: Type.Array(Type.Unknown(), { maxItems: 0 }),
  created: time,
  data: exact({ progress: Type.Integer({ minimum: 0, maximum: 100 }) }),
  last_modified: time,
  operation: Type.String(),
  resource_uri: uri('jobs'),
  resources: strings,
  state: literals('started', 'success', 'failed'),
  uuid,
});

export const tag = exact({
  meta,
  name: Type.String({ minLength: 1 }),
  owner: linkTo('user'),
  resource_uri: uri('tags'),
  resources: Type.Array(
    exact({
      owner: linkTo('user'),
      res_type: literals('servers', 'drives', 'snapshots', 'libdrives'),
      resource_uri: uri('(servers|drives|snapshots|libdrives)'),
      uuid,
    }),
  ),
  uuid,
});

const serverStatus = literals('running', 'stopped', 'paused', 'starting', 'stopping', 'unavailable');
const serverRuntime = orNull(exact({ active_since: Type.String(), nics: Type.Array(Type.Unknown()) }));

export const server = exact({
  context: Type.Boolean(),
  cpu: Type.Integer({ minimum: 1 }),
  cpu_model: Type.Null(),
  cpus_instead_of_cores: Type.Boolean(),
  drives: Type.Array(
    exact({
      boot_order: orNull(Type.Integer()),
      dev_channel: Type.String({ pattern: '^\\d+:[0-3]$' }),
      device: Type.Literal('virtio'),
      drive: linkTo('drives'),
      runtime: Type.Null(),
    }),
  ),
  enable_numa: Type.Boolean(),
  ...sharing,
  hv_relaxed: Type.Boolean(),
  hv_tsc: Type.Boolean(),
  jobs: Type.Array(linkTo('jobs')),
  mem: bytes,
  meta,
  name: Type.String(),
  nics: Type.Array(
    exact({
      boot_order: Type.Null(),
      firewall_policy: Type.Null(),
      ip_v4_conf: Type.Null(),
      ip_v6_conf: Type.Null(),
      mac: Type.String(),
      model: Type.Literal('virtio'),
      runtime: Type.Null(),
      vlan: Type.Null(),
    }),
  ),
  requirements: strings,
  resource_uri: uri('servers'),
  runtime: serverRuntime,
  smp: Type.Integer({ minimum: 1 }),
  status: serverStatus,
  tags: Type.Array(linkTo('tags')),
  uuid,
  vnc_password: Type.String(),
});

export const shortServer = exact({
  name: Type.String(),
  owner: linkTo('user'),
  resource_uri: uri('servers'),
  runtime: serverRuntime,
  status: serverStatus,
  uuid,
});

export const libraryDrive = exact({
  allow_multimount: Type.Boolean(),
  arch: Type.String(),
  category: strings,
  description: Type.String(),
  favourite: Type.Boolean(),
  image_type: Type.Literal('preinst'),
  install_notes: Type.String(),
  jobs: Type.Array(linkTo('jobs')),
  licenses: Type.Array(Type.Unknown()),
  media: literals('disk', 'cdrom'),
  meta,
  mounted_on: Type.Array(linkTo('servers')),
  name: Type.String(),
  os: Type.String(),
  owner: Type.Null(),
  paid: Type.Boolean(),
  resource_uri: uri('libdrives'),
  size: bytes,
  status: driveStatus,
  storage_type: Type.String(),
  tags: Type.Array(linkTo('tags')),
  url: Type.String(),
  uuid,
  version: Type.String(),
});

/** What a list of things that carry a tag holds. */
export const tagged = exact({
  name: Type.String(),
  owner: linkTo('user'),
  resource_uri: linkTo('(servers|drives|snapshots)'),
  runtime: Type.Optional(serverRuntime),
  status: Type.String(),
  uuid,
});

const range = exact({ max: Type.Integer(), min: Type.Integer() });
const perServer = exact({ cpu: range, cpu_per_smp: range, mem: range, smp: range });

export const capabilities = exact({
  default_storage_type: Type.String(),
  drives: Type.Record(Type.String(), exact({ max_size: bytes, min_size: bytes, size: range })),
  hosts: Type.Record(Type.String(), perServer),
  hypervisors: exact({ kvm: strings }),
  servers: perServer,
  snapshots: exact({ current: bytes, max: bytes, max_per_drive: bytes }),
});

export const profile = exact({
  address: Type.String(),
  api_https_only: Type.Boolean(),
  clone_naming: literals('NONE', 'COUNTER', 'DATE', 'TIMESTAMP'),
  company: Type.String(),
  country: Type.String(),
  email: orNull(Type.String()),
  first_name: Type.String(),
  key_auth: Type.Boolean(),
  language: Type.String(),
  last_name: Type.String(),
  mailing_list: Type.Boolean(),
  meta,
  my_notes: Type.String(),
  nickname: Type.String(),
  phone: Type.String(),
  postcode: Type.String(),
  reseller: Type.String(),
  signup_time: time,
  state: Type.String(),
  title: Type.String(),
  town: Type.String(),
  uuid,
  vat: Type.String(),
});

export const schemaPage = exact({
  allowed_detail_http_methods: strings,
  allowed_list_http_methods: strings,
  default_format: Type.Literal('application/json'),
  default_limit: Type.Literal(20),
  fields: Type.Record(
    Type.String(),
    exact({
      choices: Type.Optional(strings),
      default: Type.Unknown(),
      fields: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
      help_text: Type.String(),
      readonly: Type.Boolean(),
      required: Type.Boolean(),
      type: Type.String(),
    }),
  ),
  filtering: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  ordering: Type.Optional(strings),
});

export const groups = Type.Union([Type.Array(uuid), Type.Array(Type.Array(uuid, { minItems: 1 }))]);
export const login = exact({ uuid });
export const nothing = exact({});
export const action = exact({ action: literals('start', 'stop', 'shutdown'), result: Type.Literal('success'), uuid });

export const errors = Type.Array(
  exact({
    error_message: Type.String({ minLength: 1 }),
    error_point: orNull(Type.String()),
    error_type: literals('validation', 'permission', 'notexist', 'backend', 'database', 'concurrency'),
  }),
  { minItems: 1 },
);

export const listOf = (...objects: readonly TSchema[]) =>
  exact({
    meta: exact({ limit: bytes, offset: bytes, total_count: bytes }),
    objects: Type.Array(Type.Union([...objects])),
  });

/** As a POST answers: without `meta`. */
export const madeOf = (object: TSchema) => exact({ objects: Type.Array(object, { minItems: 1 }) });

/** What a selection of `fields` leaves of an object. */
export const selected = Type.Record(Type.String(), Type.Unknown());
