/** The views as XML elements, in the order of children that clients and the original have. */
import type { ErrorAnswer } from './errors.ts';
import { hardwareLimits, listedProfiles, type Profile } from './parse.ts';
import {
  architecture,
  type DriverView,
  deltacloudVersion,
  type ImageView,
  type InstanceAction,
  type InstanceView,
  type Links,
  type RealmView,
  realm,
  type SnapshotView,
  type VolumeView,
} from './present.ts';
import { collections, stateMachine } from './reference.ts';
import { block, cdataElement, type Element, emptyElement, singleElement, textElement } from './xml.ts';

export function snapshotXml(view: SnapshotView, links: Links): Element {
  const { id, name, description, created, state, volumeId } = view;
  return block('storage_snapshot', { href: links.member('storage_snapshots', id), id }, [
    textElement('name', name),
    description === '' ? null : textElement('description', description),
    textElement('created', created),
    textElement('state', state),
    emptyElement('storage_volume', { href: links.member('storage_volumes', volumeId), id: volumeId }),
  ]);
}

export function volumeXml(view: VolumeView, links: Links): Element {
  const { id, name, description, created, capacity, state, mount } = view;
  const href = links.member('storage_volumes', id);
  return block('storage_volume', { href, id }, [
    textElement('created', created),
    textElement('capacity', capacity, { unit: 'GB' }),
    textElement('name', name),
    description === '' ? null : textElement('description', description),
    // Clients take the first element of this name, so it comes before the one of `mount`.
    mount === null ? null : textElement('device', mount.device),
    emptyElement('realm', { href: links.member('realms', realm.id), id: realm.id }),
    textElement('realm_id', realm.id),
    textElement('state', state),
    mount === null
      ? null
      : block('mount', {}, [
          emptyElement('instance', { href: links.member('instances', mount.instanceId), id: mount.instanceId }),
          emptyElement('device', { name: mount.device }),
        ]),
    // All of them in every state: a client may act on what it read before the last change.
    block('actions', {}, [
      singleElement('link', { href: `${href}/attach`, method: 'post', rel: 'attach' }),
      singleElement('link', { href: `${href}/detach`, method: 'post', rel: 'detach' }),
      singleElement('link', { href, method: 'delete', rel: 'destroy' }),
    ]),
  ]);
}

export function actionHref(action: InstanceAction, instanceId: string, links: Links): string {
  const href = links.member('instances', instanceId);
  return action === 'destroy' ? href : `${href}/${action}`;
}

export function methodOf(action: InstanceAction): 'delete' | 'post' {
  return action === 'destroy' ? 'delete' : 'post';
}

export function instanceXml(view: InstanceView, links: Links): Element {
  const { id, imageId, profile } = view;
  return block('instance', { href: links.member('instances', id), id }, [
    textElement('name', view.name),
    textElement('owner_id', view.owner),
    imageId === null ? null : emptyElement('image', { href: links.member('images', imageId), id: imageId }),
    emptyElement('realm', { href: links.member('realms', realm.id), id: realm.id }),
    textElement('state', view.state),
    emptyElement('hardware_profile', { href: links.member('hardware_profiles', profile.id), id: profile.id }),
    block(
      'actions',
      {},
      view.actions.map((action) =>
        singleElement('link', { href: actionHref(action, id, links), method: methodOf(action), rel: action }),
      ),
    ),
    block('public_addresses', {}, []),
    block('private_addresses', {}, [textElement('address', view.macAddress, { type: 'mac' })]),
    block(
      'storage_volumes',
      {},
      view.volumes.map(({ id: volumeId, device }) =>
        emptyElement('storage_volume', { device, href: links.member('storage_volumes', volumeId), id: volumeId }),
      ),
    ),
    // Nothing is put into a guest: whoever is known to the image logs in.
    emptyElement('authentication', { type: 'key' }),
  ]);
}

export function imageXml(view: ImageView, links: Links): Element {
  const { id } = view;
  return block('image', { href: links.member('images', id), id }, [
    textElement('name', view.name),
    textElement('description', view.description),
    textElement('owner_id', view.owner),
    textElement('architecture', view.architecture),
    textElement('state', view.state),
    block(
      'hardware_profiles',
      {},
      listedProfiles.map((profile) =>
        emptyElement('hardware_profile', {
          href: links.member('hardware_profiles', profile.id),
          id: profile.id,
          rel: 'hardware_profile',
        }),
      ),
    ),
    textElement('root_type', 'transient'),
    block('actions', {}, [
      singleElement('link', {
        href: `${links.collection('instances')};image_id=${id}`,
        method: 'post',
        rel: 'create_instance',
      }),
    ]),
  ]);
}

export function realmXml({ id, name, state }: RealmView, links: Links): Element {
  return block('realm', { href: links.member('realms', id), id }, [
    textElement('name', name),
    textElement('state', state),
  ]);
}

export function profileXml({ id, fixed }: Profile, links: Links): Element {
  return block('hardware_profile', { href: links.member('hardware_profiles', id), id }, [
    textElement('id', id),
    textElement('name', id),
    propertyXml('cpu', 'count', fixed?.cpus, links),
    propertyXml('memory', 'MB', fixed?.memoryMiB, links),
    singleElement('property', { kind: 'fixed', name: 'architecture', unit: 'label', value: architecture }),
  ]);
}

function propertyXml(name: 'cpu' | 'memory', unit: string, fixed: number | undefined, links: Links): Element {
  if (fixed !== undefined) return singleElement('property', { kind: 'fixed', name, unit, value: String(fixed) });
  const { first, last, usual } = hardwareLimits[name];
  return block('property', { kind: 'range', name, unit, value: String(usual) }, [
    singleElement('param', {
      href: links.collection('instances'),
      method: 'post',
      name: `hwp_${name}`,
      operation: 'create',
    }),
    singleElement('range', { first: String(first), last: String(last) }),
  ]);
}

export function driverXml({ id, name }: DriverView, links: Links): Element {
  return block('driver', { href: links.member('drivers', id), id }, [textElement('name', name)]);
}

export function statesXml(): Element {
  return block(
    'states',
    {},
    stateMachine.map(({ name, transitions }) =>
      block(
        'state',
        { name },
        transitions.map(({ to, action }) =>
          emptyElement('transition', action === null ? { auto: 'true', to } : { action, to }),
        ),
      ),
    ),
  );
}

export function entryXml(driver: string, provider: string | null, links: Links): Element {
  const attributes = { driver, version: deltacloudVersion, ...(provider === null ? {} : { provider }) };
  return block(
    'api',
    attributes,
    collections.map(({ name: rel, features }) =>
      block(
        'link',
        { href: links.collection(rel), rel },
        features.map(({ name, operation, parameters }) =>
          block(
            'feature',
            { name, rel: operation },
            parameters.map((parameter) => singleElement('param', { name: parameter })),
          ),
        ),
      ),
    ),
  );
}

export interface FailedRequest {
  /** Path without query and matrix parameters. */
  readonly url: string;
  readonly driver: string;
  readonly provider: string | null;
  /** Values as they are shown, quoted. */
  readonly parameters: readonly (readonly [name: string, value: string])[];
}

export function errorXml({ status, message }: ErrorAnswer, failed: FailedRequest): Element {
  return block('error', { status: String(status), url: failed.url }, [
    emptyElement('backend', { driver: failed.driver, provider: failed.provider ?? 'default' }),
    textElement('code', String(status)),
    cdataElement('message', message),
    cdataElement('backtrace', ''),
    block(
      'request',
      {},
      failed.parameters.map(([name, value]) => cdataElement('param', value, { name })),
    ),
  ]);
}
