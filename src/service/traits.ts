/** What front doors keep with drives beside what the model knows of them; goes with the drive. */
import { putTraits, type Traits, traitsOf } from '../catalog/traits.ts';
import type { DriveId } from '../core/ids.ts';
import { driveRow } from './access.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';

export interface TraitUseCases {
  /** For drives that the caller was shown; those without are left out. */
  of(ids: readonly DriveId[]): Promise<ReadonlyMap<string, Traits>>;
  /** Adds or replaces those that are named. */
  set(caller: Caller, id: DriveId, traits: Traits): Promise<void>;
}

export function traitUseCases({ catalog }: Context): TraitUseCases {
  return {
    of: (ids) => traitsOf(catalog.db, ids),
    async set(caller, id, traits) {
      await catalog.write(async (tx) => {
        await driveRow(tx, caller, 'write', id);
        await putTraits(tx, id, traits);
      });
    },
  };
}
