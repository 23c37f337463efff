/** The exact shapes of what leaves this dialect, for tests: JSON as it is, XML as fast-xml-parser reads it (`@` before attributes). */
import { type TProperties, type TSchema, Type } from 'typebox';

const closed = <P extends TProperties>(properties: P) => Type.Object(properties, { additionalProperties: false });
const text = Type.String({ minLength: 1 });
const href = Type.String({ pattern: '^https?://[^/]+(/[^/?#]+)*/api(/[^?#]*)?$' });
const date = Type.String({ pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ$' });
const idOf = (prefix: string) => Type.String({ pattern: `^${prefix}-[1-9a-f][0-9a-f]*$` });
const ids = { snapshot: idOf('snap'), volume: idOf('vol'), instance: idOf('inst'), image: idOf('img') };
const oneOf = (...values: readonly string[]) => Type.Union(values.map((value) => Type.Literal(value)));
const nothing = Type.Literal('');

const snapshotState = oneOf('PENDING', 'COMPLETED', 'ERROR');
const volumeState = oneOf('CREATING', 'AVAILABLE', 'IN-USE', 'ERROR');
const instanceState = oneOf('PENDING', 'RUNNING', 'STOPPING', 'STOPPED', 'ERROR');
const imageState = oneOf('PENDING', 'AVAILABLE', 'ERROR');
const status = oneOf('400', '401', '403', '404', '405', '409', '500', '501', '502', '504');

const reference = (id: TSchema, rel: string) => closed({ id, href, rel: Type.Literal(rel) });

const jsonSnapshot = closed({
  id: ids.snapshot,
  href,
  name: text,
  description: Type.Optional(text),
  state: snapshotState,
  storage_volume: reference(ids.volume, 'storage_volume'),
  created: date,
});

const jsonVolume = closed({
  id: ids.volume,
  href,
  name: text,
  description: Type.Union([text, Type.Null()]),
  state: volumeState,
  created: date,
  realm: reference(text, 'realm'),
  device: Type.Union([text, Type.Null()]),
  kind: Type.Null(),
  capacity: Type.Number({ exclusiveMinimum: 0 }),
  actions: Type.Array(closed({ href, rel: oneOf('attach', 'detach', 'destroy') })),
  instance: Type.Union([closed({}), reference(ids.instance, 'instance')]),
});

const jsonInstance = closed({
  id: ids.instance,
  href,
  name: text,
  state: instanceState,
  owner: text,
  image: Type.Union([closed({}), reference(ids.image, 'image')]),
  realm: reference(text, 'realm'),
  actions: Type.Array(
    closed({ href, rel: oneOf('start', 'stop', 'reboot', 'destroy'), method: oneOf('post', 'delete') }),
  ),
  hardware_profile: closed({ id: text, href, rel: Type.Literal('hardware_profile'), properties: closed({}) }),
  public_addresses: Type.Array(closed({ address: text, type: text })),
  private_addresses: Type.Array(closed({ address: text, type: text })),
  storage_volumes: Type.Array(reference(ids.volume, 'storage_volume')),
  authentication_type: Type.Literal('key'),
});

const jsonImage = closed({
  id: ids.image,
  href,
  name: text,
  description: Type.String(),
  owner: text,
  architecture: text,
  state: imageState,
  root_type: Type.Literal('transient'),
  actions: Type.Array(closed({ href, rel: Type.Literal('create_instance'), method: Type.Literal('post') })),
});

const jsonRealm = closed({ id: text, href, name: text, state: text, limit: Type.Null() });
const jsonProfile = closed({
  id: text,
  href,
  name: text,
  properties: closed({ cpu: text, memory: text, architecture: text }),
});
const jsonDriver = closed({ id: text, href, name: text });
const jsonStates = Type.Array(
  closed({
    name: text,
    transitions: Type.Array(
      Type.Union([closed({ to: text, action: text }), closed({ to: text, auto: Type.Literal(true) })]),
    ),
  }),
);
const jsonApi = closed({
  version: text,
  driver: text,
  provider: text,
  links: Type.Array(
    closed({
      rel: text,
      href,
      features: Type.Array(
        Type.Array(closed({ name: text, rel: text, params: Type.Array(text), constraints: closed({}) }), {
          minItems: 1,
          maxItems: 1,
        }),
      ),
    }),
    { minItems: 1 },
  ),
});

const list = (member: TSchema) => Type.Array(member);

/** By the only key of the document; of the errors, which have several, by `error`. */
export const jsonSchemas: Readonly<Record<string, TSchema>> = {
  api: closed({ api: jsonApi }),
  storage_snapshot: closed({ storage_snapshot: jsonSnapshot }),
  storage_snapshots: closed({ storage_snapshots: list(jsonSnapshot) }),
  storage_volume: closed({ storage_volume: jsonVolume }),
  storage_volumes: closed({ storage_volumes: list(jsonVolume) }),
  instance: closed({ instance: jsonInstance }),
  instances: closed({ instances: list(jsonInstance) }),
  image: closed({ image: jsonImage }),
  images: closed({ images: list(jsonImage) }),
  realm: closed({ realm: jsonRealm }),
  realms: closed({ realms: list(jsonRealm) }),
  hardware_profile: closed({ hardware_profile: jsonProfile }),
  hardware_profiles: closed({ hardware_profiles: list(jsonProfile) }),
  driver: closed({ driver: jsonDriver }),
  error: closed({
    code: Type.Integer(),
    message: text,
    error: Type.String({ pattern: '^Deltacloud::Exceptions::\\w+$' }),
  }),
};

/** A map by identifier. */
export const jsonDrivers = Type.Record(Type.String(), jsonDriver);
/** A bare array. */
export const jsonInstanceStates = jsonStates;

const linkXml = closed({ '@href': href, '@method': oneOf('post', 'delete'), '@rel': text });
const referenceXml = (id: TSchema) => closed({ '@href': href, '@id': id });
const realmReferenceXml = referenceXml(Type.Literal('local'));

const xmlSnapshot = closed({
  '@href': href,
  '@id': ids.snapshot,
  name: text,
  description: Type.Optional(text),
  created: date,
  state: snapshotState,
  storage_volume: referenceXml(ids.volume),
});

const xmlVolume = closed({
  '@href': href,
  '@id': ids.volume,
  created: date,
  capacity: closed({ '#text': Type.String({ pattern: '^\\d+(\\.\\d+)?$' }), '@unit': Type.Literal('GB') }),
  name: text,
  description: Type.Optional(text),
  device: Type.Optional(text),
  realm: realmReferenceXml,
  realm_id: Type.Literal('local'),
  state: volumeState,
  mount: Type.Optional(closed({ instance: referenceXml(ids.instance), device: closed({ '@name': text }) })),
  actions: closed({ link: Type.Array(linkXml) }),
});

const xmlInstance = closed({
  '@href': href,
  '@id': ids.instance,
  name: text,
  owner_id: text,
  image: Type.Optional(referenceXml(ids.image)),
  realm: realmReferenceXml,
  state: instanceState,
  hardware_profile: referenceXml(text),
  actions: Type.Union([nothing, closed({ link: Type.Array(linkXml) })]),
  public_addresses: nothing,
  private_addresses: closed({ address: Type.Array(closed({ '#text': text, '@type': text })) }),
  storage_volumes: Type.Union([
    nothing,
    closed({ storage_volume: Type.Array(closed({ '@device': text, '@href': href, '@id': ids.volume })) }),
  ]),
  authentication: closed({ '@type': Type.Literal('key') }),
});

const xmlImage = closed({
  '@href': href,
  '@id': ids.image,
  name: text,
  description: Type.String(),
  owner_id: text,
  architecture: text,
  state: imageState,
  hardware_profiles: closed({
    hardware_profile: Type.Array(closed({ '@href': href, '@id': text, '@rel': Type.Literal('hardware_profile') })),
  }),
  root_type: Type.Literal('transient'),
  actions: closed({ link: Type.Array(linkXml) }),
});

const xmlRealm = closed({ '@href': href, '@id': text, name: text, state: text });
const fixedProperty = closed({ '@kind': Type.Literal('fixed'), '@name': text, '@unit': text, '@value': text });
const rangeProperty = closed({
  '@kind': Type.Literal('range'),
  '@name': text,
  '@unit': text,
  '@value': text,
  param: Type.Array(closed({ '@href': href, '@method': text, '@name': text, '@operation': text })),
  range: closed({ '@first': text, '@last': text }),
});
const xmlProfile = closed({
  '@href': href,
  '@id': text,
  id: text,
  name: text,
  property: Type.Array(Type.Union([fixedProperty, rangeProperty])),
});
const xmlDriver = closed({ '@href': href, '@id': text, name: text });

/** Elements that may come several times, wherever they are. */
export const repeatedElements = [
  'link',
  'feature',
  'param',
  'address',
  'property',
  'state.transition',
  'hardware_profiles.hardware_profile',
  'storage_volumes.storage_volume',
  'storage_snapshots.storage_snapshot',
  'instances.instance',
  'images.image',
  'realms.realm',
  'drivers.driver',
  'states.state',
];

const listXml = (name: string, member: TSchema) =>
  closed({ [`${name}s`]: Type.Union([nothing, closed({ [name]: Type.Array(member) })]) });

/** By the name of the root. */
export const xmlSchemas: Readonly<Record<string, TSchema>> = {
  api: closed({
    api: closed({
      '@driver': text,
      '@version': text,
      '@provider': Type.Optional(text),
      link: Type.Array(
        closed({
          '@href': href,
          '@rel': text,
          feature: Type.Optional(
            Type.Array(
              closed({ '@name': text, '@rel': text, param: Type.Optional(Type.Array(closed({ '@name': text }))) }),
            ),
          ),
        }),
        { minItems: 1 },
      ),
    }),
  }),
  storage_snapshot: closed({ storage_snapshot: xmlSnapshot }),
  storage_snapshots: listXml('storage_snapshot', xmlSnapshot),
  storage_volume: closed({ storage_volume: xmlVolume }),
  storage_volumes: listXml('storage_volume', xmlVolume),
  instance: closed({ instance: xmlInstance }),
  instances: listXml('instance', xmlInstance),
  image: closed({ image: xmlImage }),
  images: listXml('image', xmlImage),
  realm: closed({ realm: xmlRealm }),
  realms: listXml('realm', xmlRealm),
  hardware_profile: closed({ hardware_profile: xmlProfile }),
  hardware_profiles: listXml('hardware_profile', xmlProfile),
  driver: closed({ driver: xmlDriver }),
  drivers: listXml('driver', xmlDriver),
  states: closed({
    states: closed({
      state: Type.Array(
        closed({
          '@name': text,
          transition: Type.Optional(
            Type.Array(
              Type.Union([
                closed({ '@action': text, '@to': text }),
                closed({ '@auto': Type.Literal('true'), '@to': text }),
              ]),
            ),
          ),
        }),
      ),
    }),
  }),
  error: closed({
    error: closed({
      '@status': status,
      '@url': text,
      backend: closed({ '@driver': text, '@provider': text }),
      code: status,
      message: text,
      backtrace: nothing,
      request: Type.Union([
        nothing,
        closed({
          param: Type.Array(Type.Union([closed({ '#text': text, '@name': Type.String() })])),
        }),
      ]),
    }),
  }),
};
