/**
 * The reference: every collection with its features, operations and their parameters. The entry point, OPTIONS, the pages
 * below /api/docs and the check of required parameters are all made from it. No I/O.
 */

export interface Parameter {
  readonly name: string;
  readonly required: boolean;
  readonly description: string;
  /** Empty for any. */
  readonly values: readonly string[];
}

export interface Operation {
  readonly name: string;
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** Below the collection's address. */
  readonly path: string;
  readonly description: string;
  readonly parameters: readonly Parameter[];
}

export interface Feature {
  readonly name: string;
  /** The operation that it belongs to. */
  readonly operation: string;
  readonly description: string;
  readonly parameters: readonly string[];
}

export interface Collection {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  readonly features: readonly Feature[];
  readonly operations: readonly Operation[];
}

const required = (name: string, description: string): Parameter => ({ name, required: true, description, values: [] });
const optional = (name: string, description: string, values: readonly string[] = []): Parameter => ({
  name,
  required: false,
  description,
  values,
});

const idParameter = required('id', 'Identifier of the object');

function index(what: string, filters: readonly Parameter[] = []): Operation {
  const parameters = [optional('id', 'Only the one with this identifier'), ...filters];
  return { name: 'index', method: 'GET', path: '', description: `List all ${what}`, parameters };
}

function show(what: string): Operation {
  const description = `Show one ${what}`;
  return { name: 'show', method: 'GET', path: '/:id', description, parameters: [idParameter] };
}

function create(what: string, parameters: readonly Parameter[]): Operation {
  return { name: 'create', method: 'POST', path: '', description: `Create a new ${what}`, parameters };
}

function destroy(what: string): Operation {
  const description = `Delete the ${what}`;
  return { name: 'destroy', method: 'DELETE', path: '/:id', description, parameters: [idParameter] };
}

function action(name: string, description: string, parameters: readonly Parameter[] = []): Operation {
  return { name, method: 'POST', path: `/:id/${name}`, description, parameters: [idParameter, ...parameters] };
}

const realmFilter = optional('realm_id', 'Only those in this realm');
const ownerFilter = optional('owner_id', 'Only those of this owner');

/** In the order in which clients are shown them: by name. */
export const collections: readonly Collection[] = [
  {
    name: 'drivers',
    title: 'Drivers',
    description: 'The names that this back end answers to.',
    features: [],
    operations: [index('drivers'), show('driver')],
  },
  {
    name: 'hardware_profiles',
    title: 'Hardware profiles',
    description: 'Processors and memory that an instance can have.',
    features: [],
    operations: [index('hardware profiles'), show('hardware profile')],
  },
  {
    name: 'images',
    title: 'Images',
    description: 'Templates of whole machines: any number of instances can be made from one.',
    features: [],
    operations: [
      index('images', [optional('architecture', 'Only those for this architecture', ['x86_64']), ownerFilter]),
      show('image'),
    ],
  },
  {
    name: 'instance_states',
    title: 'Instance states',
    description: 'The states of an instance, and what leads from one to another.',
    features: [],
    operations: [{ ...index('states'), parameters: [] }],
  },
  {
    name: 'instances',
    title: 'Instances',
    description: 'Virtual machines.',
    features: [
      {
        name: 'realm_filter',
        operation: 'index',
        description: 'Lists can be narrowed to one realm.',
        parameters: ['realm_id'],
      },
      {
        name: 'user_name',
        operation: 'create',
        description: 'An instance can be given a name when it is made.',
        parameters: ['name'],
      },
    ],
    operations: [
      index('instances', [
        optional('state', 'Only those in this state', ['PENDING', 'RUNNING', 'STOPPING', 'STOPPED', 'ERROR']),
        realmFilter,
        ownerFilter,
      ]),
      show('instance'),
      create('instance from an image, and start it', [
        required('image_id', 'Identifier of the image'),
        optional('name', 'Its name; by default its identifier'),
        optional('realm_id', 'Identifier of the realm'),
        optional('hwp_id', 'Identifier of the hardware profile; by default as in the image'),
        optional('hwp_cpu', 'Number of processors, where the profile leaves it open'),
        optional('hwp_memory', 'Memory in MB, where the profile leaves it open'),
      ]),
      action('start', 'Start the instance'),
      action('stop', 'Ask the guest to shut down; after a minute, pull the plug'),
      action('reboot', 'Press the reset button'),
      { ...destroy('instance'), description: 'Delete a stopped instance, with the drives that it got from its image' },
    ],
  },
  {
    name: 'realms',
    title: 'Realms',
    description: 'The places where instances and volumes are.',
    features: [],
    operations: [index('realms', [optional('state', 'Only those in this state', ['AVAILABLE'])]), show('realm')],
  },
  {
    name: 'storage_snapshots',
    title: 'Storage snapshots',
    description: 'Volumes as they were at one instant.',
    features: [],
    operations: [
      index('storage snapshots'),
      show('storage snapshot'),
      create('storage snapshot', [
        required('volume_id', 'Identifier of the volume'),
        optional('name', 'Its name; by default its identifier'),
        optional('description', 'What it is for'),
      ]),
      destroy('storage snapshot'),
    ],
  },
  {
    name: 'storage_volumes',
    title: 'Storage volumes',
    description: 'Drives, free or attached to an instance.',
    features: [
      {
        name: 'volume_name',
        operation: 'create',
        description: 'A volume can be given a name when it is made.',
        parameters: ['name'],
      },
      {
        name: 'volume_description',
        operation: 'create',
        description: 'A volume can be given a description when it is made.',
        parameters: ['description'],
      },
    ],
    operations: [
      index('storage volumes'),
      show('storage volume'),
      create('storage volume', [
        optional('snapshot_id', 'Identifier of the snapshot that it is to hold the data of; by default it is empty'),
        optional('capacity', 'Size in GB; by default that of the snapshot, or 1'),
        optional('realm_id', 'Identifier of the realm'),
        optional('name', 'Its name; by default its identifier'),
        optional('description', 'What it is for'),
      ]),
      action('attach', 'Attach the volume to an instance', [
        required('instance_id', 'Identifier of the instance'),
        required('device', 'What to call it there; may be empty'),
      ]),
      action('detach', 'Detach the volume from its instance'),
      { ...destroy('storage volume'), description: 'Delete a volume that is not attached; its snapshots stay' },
    ],
  },
];

const byName: ReadonlyMap<string, Collection> = new Map(collections.map((collection) => [collection.name, collection]));

export function findCollection(name: string): Collection | undefined {
  return byName.get(name);
}

export function findOperation(collection: Collection, name: string): Operation | undefined {
  return collection.operations.find((operation) => operation.name === name);
}

/** As `Allow` says it: `volume_id:string:required,name:string:optional`. */
export function allowOf(operation: Operation): string {
  return operation.parameters
    .map(({ name, required }) => `${name}:string:${required ? 'required' : 'optional'}`)
    .join(',');
}

/** As `Allow` of the entry point says it: names of the original's classes. */
export const collectionClasses = collections
  .map(
    ({ name }) => `Deltacloud::Rabbit::${name.replace(/(?:^|_)([a-z])/g, (_, c: string) => c.toUpperCase())}Collection`,
  )
  .join(',');

/** States of an instance, and how it gets from one to the other; without an action it happens by itself. */
export const stateMachine: readonly {
  readonly name: string;
  readonly transitions: readonly { readonly to: string; readonly action: string | null }[];
}[] = [
  { name: 'start', transitions: [{ to: 'pending', action: 'create' }] },
  { name: 'pending', transitions: [{ to: 'running', action: null }] },
  {
    name: 'running',
    transitions: [
      { to: 'running', action: 'reboot' },
      { to: 'stopped', action: 'stop' },
    ],
  },
  { name: 'stopping', transitions: [{ to: 'stopped', action: null }] },
  {
    name: 'stopped',
    transitions: [
      { to: 'running', action: 'start' },
      { to: 'finish', action: 'destroy' },
    ],
  },
  { name: 'error', transitions: [{ to: 'finish', action: 'destroy' }] },
  { name: 'finish', transitions: [] },
];
