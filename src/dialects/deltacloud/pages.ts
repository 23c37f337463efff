/** The pages of lists and objects for people with a browser, and the forms on them. Everything works without scripts. */
import { type ErrorAnswer, standardTexts } from './errors.ts';
import { buttonForm, facts, fieldForm, freeText, type Html, html, link, type Page, table } from './html.ts';
import { customProfile, hardwareLimits, listedProfiles, type Profile } from './parse.ts';
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
import { actionHref, methodOf } from './present-xml.ts';
import { collections, stateMachine } from './reference.ts';

type Body = Pick<Page, 'heading' | 'content'>;

function actions(...parts: readonly (Html | null)[]): Html {
  return html`<div class="actions">${parts.filter((part) => part !== null)}</div>`;
}

function reference(links: Links, collection: string, id: string): Html {
  return link(links.member(collection, id), id);
}

function time(date: string): Html {
  const [day = '', hour = ''] = date.split('T');
  return html`<time datetime="${date}"><span>${day}</span> <span>${hour.replace('Z', ' UTC')}</span></time>`;
}

export function entryPage(driver: string, links: Links): Body {
  const items = collections.map(
    ({ name, title, description }) => html`<dt>${link(links.collection(name), title)}</dt><dd>${description}</dd>\n`,
  );
  const content = html`<p>Version ${deltacloudVersion}, driver ${driver}.</p>
<dl>${items}</dl>`;
  return { heading: 'Collections', content };
}

export function indexPage(links: Links): Body {
  const content = html`<p>The API begins at ${link(links.base, links.base)}. Its ${link(
    links.collection('docs'),
    'documentation',
  )} lists every operation.</p>`;
  return { heading: 'Deltacloud API', content };
}

export function snapshotList(views: readonly SnapshotView[], links: Links): Body {
  const rows = views.map(({ id, name, volumeId, created, state }) => [
    reference(links, 'storage_snapshots', id),
    freeText(name),
    html`${reference(links, 'storage_volumes', volumeId)}, ${time(created)}`,
    html`${state}`,
  ]);
  const heads = ['Identifier', 'Name', 'Volume, created', 'State'];
  const content = html`${table('Volumes as they were at one instant', heads, rows)}
${actions(html`<a class="button" href="${links.member('storage_snapshots', 'new')}">New snapshot…</a>`)}`;
  return { heading: 'Storage snapshots', content };
}

export function snapshotPage(view: SnapshotView, links: Links): Body {
  const { id, name, description, volumeId, created, state } = view;
  const fromIt = `${links.member('storage_volumes', 'new')}?snapshot_id=${id}`;
  const content = html`${facts([
    ['Name', name],
    ...(description === '' ? [] : [['Description', description] as const]),
    ['Storage volume', reference(links, 'storage_volumes', volumeId)],
    ['Created', time(created)],
    ['State', state],
  ])}
${actions(
  html`<a class="button" href="${fromIt}">New volume from it…</a>`,
  buttonForm(links.member('storage_snapshots', id), 'Delete', 'delete'),
)}`;
  return { heading: `Storage snapshot ${id}`, content };
}

export function newSnapshotPage(volumeId: string, links: Links): Body {
  const content = fieldForm(
    links.collection('storage_snapshots'),
    [
      { name: 'volume_id', label: 'Volume', hint: 'Its identifier, such as vol-1a', value: volumeId, required: true },
      { name: 'name', label: 'Name', hint: 'By default the identifier of the snapshot' },
      { name: 'description', label: 'Description' },
    ],
    'Create snapshot',
  );
  return { heading: 'New storage snapshot', content };
}

export function volumeList(views: readonly VolumeView[], links: Links): Body {
  const rows = views.map(({ id, name, capacity, created, state, mount }) => [
    reference(links, 'storage_volumes', id),
    freeText(name),
    html`${capacity} GB`,
    time(created),
    html`${state}${mount === null ? null : html`, ${reference(links, 'instances', mount.instanceId)}`}`,
  ]);
  const content = html`${table('Drives', ['Identifier', 'Name', 'Capacity', 'Created', 'State'], rows)}
${actions(html`<a class="button" href="${links.member('storage_volumes', 'new')}">New volume…</a>`)}`;
  return { heading: 'Storage volumes', content };
}

export function volumePage(view: VolumeView, links: Links): Body {
  const { id, name, description, created, capacity, state, mount } = view;
  const href = links.member('storage_volumes', id);
  const attachedTo = mount === null ? '' : reference(links, 'instances', mount.instanceId);
  const content = html`${facts([
    ['Name', name],
    ...(description === '' ? [] : [['Description', description] as const]),
    ['Created', time(created)],
    ['Capacity', `${capacity} GB`],
    ['Realm', reference(links, 'realms', realm.id)],
    ['State', state],
    ['Attached to', attachedTo],
    ['Device', mount?.device ?? ''],
  ])}
${actions(
  html`<a class="button" href="${links.member('storage_snapshots', 'new')}?volume_id=${id}">Snapshot…</a>`,
  mount === null
    ? html`<a class="button" href="${href}/attach_instance">Attach…</a>`
    : buttonForm(`${href}/detach`, 'Detach'),
  mount === null ? buttonForm(href, 'Delete', 'delete') : null,
)}`;
  return { heading: `Storage volume ${id}`, content };
}

export function newVolumePage(snapshotId: string, links: Links): Body {
  const content = fieldForm(
    links.collection('storage_volumes'),
    [
      { name: 'name', label: 'Name', hint: 'By default the identifier of the volume' },
      { name: 'description', label: 'Description' },
      {
        name: 'snapshot_id',
        label: 'Snapshot',
        hint: 'Identifier of the snapshot whose data it is to hold; without one it is empty',
        value: snapshotId,
      },
      { name: 'capacity', label: 'Capacity in GB', hint: 'By default that of the snapshot, or 1' },
      { name: 'realm_id', label: 'Realm', choices: [{ value: realm.id, label: realm.name }] },
    ],
    'Create volume',
  );
  return { heading: 'New storage volume', content };
}

export function attachPage(volume: VolumeView, instances: readonly InstanceView[], links: Links): Body {
  const href = links.member('storage_volumes', volume.id);
  const choices = instances.map(({ id, name, state }) => ({ value: id, label: `${name} (${id}, ${state})` }));
  const content =
    choices.length === 0
      ? html`<p>There is no instance to attach it to.</p>`
      : fieldForm(
          `${href}/attach`,
          [
            { name: 'instance_id', label: 'Instance', required: true, choices },
            { name: 'device', label: 'Device', hint: 'What to call it there', value: '/dev/sdc' },
          ],
          'Attach',
        );
  return { heading: `Attach storage volume ${volume.id}`, content };
}

export function instanceList(views: readonly InstanceView[], links: Links): Body {
  const rows = views.map(({ id, name, state, profile, imageId }) => [
    reference(links, 'instances', id),
    freeText(name),
    imageId === null ? html`–` : reference(links, 'images', imageId),
    reference(links, 'hardware_profiles', profile.id),
    html`${state}`,
  ]);
  const content = html`${table('Virtual machines', ['Identifier', 'Name', 'Image', 'Hardware', 'State'], rows)}
<p>A new one is made from one of the ${link(links.collection('images'), 'images')}.</p>`;
  return { heading: 'Instances', content };
}

const actionLabels: Readonly<Record<InstanceAction, string>> = {
  start: 'Start',
  stop: 'Stop',
  reboot: 'Reboot',
  destroy: 'Delete',
};

export function instancePage(view: InstanceView, links: Links): Body {
  const { id, imageId, profile, volumes } = view;
  const rows = volumes.map((volume) => [
    reference(links, 'storage_volumes', volume.id),
    freeText(volume.name),
    html`<code>${volume.device}</code>`,
  ]);
  // What cannot be undone comes last, as everywhere.
  const ordered = [...view.actions].sort((a, b) => Number(a === 'destroy') - Number(b === 'destroy'));
  const content = html`${facts([
    ['Name', view.name],
    ['Owner', view.owner],
    ['State', view.state],
    ['Image', imageId === null ? '' : reference(links, 'images', imageId)],
    ['Realm', reference(links, 'realms', realm.id)],
    ['Hardware profile', reference(links, 'hardware_profiles', profile.id)],
    ['Network address', html`<code>${view.macAddress}</code>`],
  ])}
${actions(
  ...ordered.map((action) => buttonForm(actionHref(action, id, links), actionLabels[action], methodOf(action))),
)}
<h2>Storage volumes</h2>
${table('Attached to this instance', ['Identifier', 'Name', 'Device'], rows)}`;
  return { heading: `Instance ${id}`, content };
}

export function imageList(views: readonly ImageView[], links: Links): Body {
  const rows = views.map(({ id, name, description, architecture: arch, state }) => [
    reference(links, 'images', id),
    freeText(name),
    freeText(description),
    html`${arch}`,
    html`${state}`,
  ]);
  const heads = ['Identifier', 'Name', 'Description', 'Architecture', 'State'];
  return { heading: 'Images', content: table('Templates of whole machines', heads, rows) };
}

export function imagePage(view: ImageView, links: Links): Body {
  const profiles = listedProfiles
    .filter((profile) => profile !== customProfile)
    .map(({ id, fixed }) => ({ value: id, label: `${fixed?.cpus} CPU, ${fixed?.memoryMiB} MB` }));
  const content = html`${facts([
    ['Name', view.name],
    ['Description', view.description],
    ['Owner', view.owner],
    ['Architecture', view.architecture],
    ['State', view.state],
  ])}
<h2>New instance from it</h2>
${fieldForm(
  `${links.collection('instances')};image_id=${view.id}`,
  [
    { name: 'name', label: 'Name', hint: 'By default the identifier of the instance' },
    { name: 'hwp_id', label: 'Hardware', choices: [{ value: '', label: 'As in the image' }, ...profiles] },
    { name: 'realm_id', label: 'Realm', choices: [{ value: realm.id, label: realm.name }] },
  ],
  'Create and start',
)}`;
  return { heading: `Image ${view.id}`, content };
}

export function realmList(views: readonly RealmView[], links: Links): Body {
  const rows = views.map(({ id, name, state }) => [reference(links, 'realms', id), html`${name}`, html`${state}`]);
  return { heading: 'Realms', content: table('Places', ['Identifier', 'Name', 'State'], rows) };
}

export function realmPage({ id, name, state }: RealmView): Body {
  return {
    heading: `Realm ${id}`,
    content: facts([
      ['Name', name],
      ['State', state],
    ]),
  };
}

function range(property: 'cpu' | 'memory', fixed: number | undefined, unit: string): string {
  const { first, last } = hardwareLimits[property];
  return fixed === undefined ? `${first} to ${last}${unit}` : `${fixed}${unit}`;
}

export function profileList(views: readonly Profile[], links: Links): Body {
  const rows = views.map(({ id, fixed }) => [
    reference(links, 'hardware_profiles', id),
    html`${range('cpu', fixed?.cpus, '')}`,
    html`${range('memory', fixed?.memoryMiB, ' MB')}`,
  ]);
  const heads = ['Identifier', 'Processors', 'Memory'];
  return { heading: 'Hardware profiles', content: table('What an instance can have', heads, rows) };
}

export function profilePage({ id, fixed }: Profile): Body {
  const content = facts([
    ['Processors', range('cpu', fixed?.cpus, '')],
    ['Memory', range('memory', fixed?.memoryMiB, ' MB')],
    ['Architecture', architecture],
  ]);
  return { heading: `Hardware profile ${id}`, content };
}

export function driverList(views: readonly DriverView[], links: Links): Body {
  const rows = views.map(({ id, name }) => [reference(links, 'drivers', id), html`${name}`]);
  const caption = 'Names that this back end answers to';
  return { heading: 'Drivers', content: table(caption, ['Identifier', 'Name'], rows) };
}

export function driverPage({ id, name }: DriverView): Body {
  return { heading: `Driver ${id}`, content: facts([['Name', name]]) };
}

export function statesPage(): Body {
  const rows = stateMachine.flatMap(({ name, transitions }) =>
    transitions.length === 0
      ? [[html`${name}`, html`–`, html`–`]]
      : transitions.map(({ to, action }) => [html`${name}`, html`${action ?? 'by itself'}`, html`${to}`]),
  );
  return { heading: 'Instance states', content: table('What leads where', ['State', 'Action', 'Next state'], rows) };
}

/** @param retry null where the same address would not do the same again */
export function errorPage({ status, message }: ErrorAnswer, url: string, retry: string | null): Body {
  const content = html`${facts([
    ['Server message', message],
    ['Request', html`<code>${url}</code>`],
  ])}
${retry === null ? null : actions(html`<a class="button" href="${retry}">Retry</a>`)}`;
  return { heading: `${status} - ${standardTexts[status]}`, content };
}
