/** What answers say of objects beside the objects themselves: tags by id, whom they are shared with, the caller's own right. */
import { notFound } from '../../core/errors.ts';
import { type DriveId, isUuid, type TagId, type UserId } from '../../core/ids.ts';
import type { TaskKind } from '../../core/model.ts';
import type { Condition } from '../../core/query.ts';
import type { Access, Labels, SharedKind, SharedWith } from '../../service/interface.ts';
import type { Call } from './call.ts';
import { invalidField } from './errors.ts';
import type { Wish } from './filters.ts';
import { type Fields, readMeta, readReferences } from './parse.ts';
import { type Link, link, type Surroundings } from './present.ts';

export interface Subject {
  readonly id: string;
  /** What grants on it may be given on: itself, and what it is part of. */
  readonly sharedBy: readonly string[];
  readonly tags: readonly string[];
  /** Who made it, if that is known. */
  readonly madeBy: UserId | null;
}

/** By id of the subject; for one as for thousands, with as many questions. */
export async function lookAround(
  call: Call,
  kind: SharedKind,
  subjects: readonly Subject[],
): Promise<(subject: Subject) => Surroundings> {
  const { service, caller, mount } = call;
  const isGuest = caller.role === 'guest';
  const names = new Set(subjects.flatMap((subject) => subject.tags));
  const [tagIds, shares, rights] = await Promise.all([
    names.size === 0 ? noTags : service.tags.idsOf(caller, [...names]),
    service.sharing.grantees(caller, [...new Set(subjects.flatMap((subject) => subject.sharedBy))]),
    isGuest
      ? service.sharing.accessTo(
          caller,
          kind,
          subjects.map((subject) => subject.id),
        )
      : noRights,
  ]);
  return (subject) => ({
    mount,
    // All of a project is its members': who made what is told where it is known, and to a guest by the project.
    owner: subject.madeBy ?? (isGuest ? caller.projectId : caller.userId),
    tags: linksOf(mount, subject.tags, tagIds),
    grantees: strongest(subject.sharedBy.flatMap((id) => shares.get(id) ?? [])),
    granted: isGuest ? (rights.get(subject.id) ?? 'ro') : null,
  });
}

const noTags: ReadonlyMap<string, TagId> = new Map();
const noRights: ReadonlyMap<string, Access> = new Map();

function linksOf(mount: string, names: readonly string[], ids: ReadonlyMap<string, TagId>): readonly Link[] {
  return names.flatMap((name) => {
    const id = ids.get(name);
    return id === undefined ? [] : [link(mount, 'tags', id)];
  });
}

/** Each user once, with the most that any grant gives. */
function strongest(shares: readonly SharedWith[]): readonly SharedWith[] {
  const byUser = new Map<UserId, SharedWith>();
  for (const share of shares) {
    if (byUser.get(share.userId)?.access !== 'rw') byUser.set(share.userId, share);
  }
  return [...byUser.values()];
}

/** The names of the tags that a body refers to; undefined when it has none. @throws invalid_request for one that is not known */
async function readTags(call: Call, fields: Fields): Promise<readonly string[] | undefined> {
  const references = readReferences(fields, 'tags');
  if (references === undefined || references.length === 0) return references;
  const names = await tagNames(call, references);
  return references.map((uuid) => {
    const name = names.get(uuid);
    if (name === undefined) throw invalidField('tags', notFound('tag', uuid).message);
    return name;
  });
}

async function tagNames({ service, caller }: Call, uuids: readonly string[]): Promise<ReadonlyMap<string, string>> {
  const ids = uuids.filter(isTagId);
  if (ids.length === 0) return new Map();
  const { items } = await service.tags.list(caller, { ids }, { limit: null });
  return new Map(items.map((tag) => [tag.id, tag.name]));
}

const isTagId = (uuid: string): uuid is TagId => isUuid(uuid);

/** Metadata and tags of a body, as far as it has them. @throws invalid_meta, invalid_request */
export async function readLabels(call: Call, fields: Fields): Promise<Labels> {
  const meta = readMeta(fields);
  const tags = await readTags(call, fields);
  return { ...(meta === undefined ? {} : { meta }), ...(tags === undefined ? {} : { tags }) };
}

/** `tag`: by uuid or by name. */
export function tagFilter(call: Call) {
  return async ({ values, contains }: Wish): Promise<Condition<'tag'>> => {
    if (contains) return { any: values.map((value) => ({ field: 'tag', op: 'contains', value })) };
    const names = await tagNames(call, values);
    return { field: 'tag', op: 'in', values: [...values, ...names.values()] };
  };
}

/** How long a look at what is being deleted waits for its end. */
const goneWithinMs = 3000;

/**
 * A deletion is answered when it begins, and some clients look right after it, once: what is deleted in a moment is gone for
 * them, too. [fog snapshots_tests.rb, volumes_tests.rb; terraform-provider-cloudsigma CheckDestroy]
 */
export async function untilGone(
  { service, caller }: Call,
  driveId: DriveId,
  ...kinds: readonly TaskKind[]
): Promise<void> {
  const tasks = (service.tasks.underWay(caller, [driveId]).get(driveId) ?? []).filter(({ kind }) =>
    kinds.includes(kind),
  );
  // Who may see the object need not see the task; then the next look says what it says.
  await Promise.allSettled(tasks.map((task) => service.tasks.waitFor(caller, task.id, goneWithinMs, 'foreground')));
}

/** Grants on a snapshot, its drive or its machine go for one drive's part of it. */
export function sharedBy(...ids: readonly (string | null | undefined)[]): readonly string[] {
  return ids.filter((id) => id !== null && id !== undefined);
}
