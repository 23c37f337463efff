/** What users want for themselves, by name: small texts that a front door asks for and keeps. */
import type { Catalog } from '../catalog/catalog.ts';
import type { Caller } from './caller.ts';

export interface PreferenceUseCases {
  /** Of the caller; undefined unless it was set. */
  get(caller: Caller, name: string): Promise<string | undefined>;
  set(caller: Caller, name: string, value: string): Promise<void>;
}

export function preferenceUseCases(catalog: Catalog): PreferenceUseCases {
  return {
    async get({ userId }, name) {
      const row = await catalog.db
        .selectFrom('preferences')
        .select('value')
        .where('user_id', '=', userId)
        .where('name', '=', name)
        .executeTakeFirst();
      return row?.value;
    },

    async set({ userId }, name, value) {
      await catalog.write((tx) =>
        tx
          .insertInto('preferences')
          .values({ user_id: userId, name, value })
          .onConflict((conflict) => conflict.columns(['user_id', 'name']).doUpdateSet({ value }))
          .execute(),
      );
    },
  };
}
