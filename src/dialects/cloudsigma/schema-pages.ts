/** What `/<resource>/schema/` says of each resource. [cloudsigma-docs dumps/response_*_schema] */

interface FieldPage {
  readonly choices?: readonly string[];
  readonly default: unknown;
  readonly fields?: Readonly<Record<string, FieldPage>>;
  readonly help_text: string;
  readonly readonly: boolean;
  readonly required: boolean;
  readonly type: string;
}

const noDefault = 'No default provided.';

/** `flags`: r for required, o for read only. */
function page(type: string, flags: '' | 'r' | 'o' | 'ro', help: string, fallback: unknown = noDefault): FieldPage {
  return {
    default: fallback,
    help_text: help,
    readonly: flags.includes('o'),
    required: flags.includes('r'),
    type,
  };
}

const common = {
  default_format: 'application/json',
  default_limit: 20,
} as const;

const wholeCollection = {
  allowed_detail_http_methods: ['get', 'put', 'delete'],
  allowed_list_http_methods: ['get', 'put', 'delete', 'post'],
  ...common,
} as const;

const readOnly = { allowed_detail_http_methods: ['get'], allowed_list_http_methods: ['get'], ...common } as const;

const filtering = { name: 'exact', name__contains: 'exact', tag: 'exact', uuid: 'exact' } as const;

const sharing = {
  grantees: page('list', '', 'Users that it is shared with'),
  permissions: page('list', '', 'What the caller may do when it is shared with him'),
  tags: page('related', '', 'Tags, as uuids, URIs or links'),
} as const;

const snapshots = {
  ...wholeCollection,
  fields: {
    allocated_size: page('integer', 'ro', 'Bytes of the drive that were overwritten since'),
    drive: page('related', 'r', 'The drive it was taken of', null),
    grantees: sharing.grantees,
    meta: page('dict', '', 'Metadata of the user', {}),
    name: page('string', '', 'Name; made up when it is left out', null),
    owner: page('related', 'o', 'Whose it is', null),
    permissions: sharing.permissions,
    resource_uri: page('string', 'ro', 'Path of the snapshot'),
    status: page('string', 'ro', 'Status of the snapshot'),
    tags: sharing.tags,
    timestamp: page('string', 'ro', 'The instant it stands for', null),
    uuid: page('string', 'ro', 'Id of the snapshot', null),
  },
  filtering,
} as const;

const drives = {
  ...wholeCollection,
  fields: {
    affinities: { choices: [], ...page('list', '', 'Taken and passed over: there is one kind of storage', []) },
    allow_multimount: page('boolean', '', 'Kept as it was given', false),
    backup_scheduler: page('related', 'o', 'The schedule that takes its snapshots', null),
    grantees: sharing.grantees,
    iops: page('integer', 'o', 'Operations per second; null without a limit', null),
    jobs: page('related', 'ro', 'Jobs that made it'),
    licenses: {
      ...page('related', '', 'Taken and passed over', []),
      fields: {
        amount: page('integer', '', 'How many', 1),
        license: page('related', 'r', 'Which'),
        user: page('related', '', 'Whose', null),
      },
    },
    media: { choices: ['cdrom', 'disk'], ...page('string', 'r', 'What it stands for', null) },
    meta: page('dict', '', 'Metadata of the user', {}),
    mounted_on: page('related', 'o', 'Servers it is attached to'),
    name: page('string', 'r', 'Name of the drive', null),
    owner: page('related', 'o', 'Whose it is', null),
    permissions: sharing.permissions,
    remote_snapshots: page('related', 'o', 'Snapshots of it in other places'),
    resource_uri: page('string', 'ro', 'Path of the drive'),
    runtime: {
      ...page('related', 'o', 'What it is at the moment'),
      fields: {
        is_downloadable: page('boolean', 'ro', 'Whether its content is served here'),
        is_ephemeral: page('boolean', 'ro', 'Whether it goes with its server'),
        is_snapshotable: page('boolean', 'ro', 'Whether snapshots of it can be taken; null while it is made'),
        snapshots_allocated_size: page('integer', 'o', 'Sum over its snapshots, in bytes'),
        storage_type: page('string', 'ro', 'Kind of storage'),
      },
    },
    size: page('integer', 'r', 'Bytes', null),
    snapshots: page('related', 'o', 'Its snapshots'),
    status: page('string', 'ro', 'Status of the drive'),
    storage_type: page('string', '', 'Kind of storage'),
    tags: sharing.tags,
    uuid: page('string', 'ro', 'Id of the drive', null),
  },
  filtering,
  ordering: ['uuid', 'name'],
} as const;

const jobs = {
  ...readOnly,
  fields: {
    children: page('related', 'o', 'Jobs that it began'),
    created: page('datetime', 'o', 'When it was asked for'),
    data: page('object', 'o', 'How far it is, in percent'),
    last_modified: page('datetime', 'o', 'When it last changed'),
    operation: page('string', 'o', 'What is done'),
    resource_uri: page('string', 'o', 'Path of the job'),
    resources: page('list', 'o', 'Paths of what it is done with'),
    state: page('string', 'o', 'started, success or failed', 'started'),
    uuid: page('string', 'o', 'Id of the job'),
  },
  filtering: { state: 1 },
  ordering: ['-last_modified'],
} as const;

const tags = {
  allowed_detail_http_methods: ['get', 'put', 'delete'],
  allowed_list_http_methods: ['get', 'post'],
  ...common,
  fields: {
    meta: page('dict', '', 'Metadata of the user', {}),
    name: page('string', 'r', 'Name of the tag', null),
    owner: page('related', 'o', 'Whose it is', null),
    resource_uri: page('string', 'ro', 'Path of the tag'),
    resources: page('related', '', 'What carries it'),
    uuid: page('string', 'ro', 'Id of the tag', null),
  },
  filtering: { name: 'exact', name__contains: 'exact', uuid: 'exact' },
} as const;

const capabilities = {
  ...readOnly,
  fields: {
    default_storage_type: page('string', 'o', 'Kind of storage of drives that name none'),
    drives: page('dict', 'o', 'Sizes by kind of storage'),
    hosts: page('dict', 'o', 'What servers can have on each kind of host'),
    hypervisors: page('dict', 'o', 'Kinds of hosts by hypervisor'),
    servers: page('dict', 'o', 'What servers can have'),
    snapshots: page('dict', 'o', 'How many there are and may be'),
  },
} as const;

export const schemaPages = { snapshots, drives, jobs, tags, capabilities } as const;
