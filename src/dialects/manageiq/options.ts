/** What OPTIONS tells of collections. (options_serializer.rb of ManageIQ/manageiq-api) */
import type { QueryKind } from '../../core/query.ts';
import type { Resource } from './resources.ts';

export function optionsOf<K extends QueryKind, T>(resource: Resource<K, T>, data: unknown = {}): unknown {
  const { columns, virtuals, subcollections } = resource;
  const names = (items: readonly { readonly name: string }[]): string[] => items.map(({ name }) => name).sort();
  return {
    attributes: names(columns),
    virtual_attributes: names(virtuals.filter(({ isRelation }) => isRelation !== true)),
    relationships: names(virtuals.filter(({ isRelation }) => isRelation === true)),
    subcollections: names(subcollections),
    data,
  };
}

/** Of what is no collection. */
export const noOptions = {
  attributes: [],
  virtual_attributes: [],
  relationships: [],
  subcollections: [],
  data: {},
};

/** The form that the web interface builds; it posts its values as they are. */
export const snapshotForm = {
  snapshot_form_schema: {
    fields: [
      {
        component: 'text-field',
        name: 'name',
        id: 'name',
        label: 'Name',
        isRequired: true,
        validate: [{ type: 'required' }],
      },
      { component: 'textarea', name: 'description', id: 'description', label: 'Description' },
      { component: 'switch', name: 'memory', id: 'memory', label: 'Snapshot VM memory', onText: 'Yes', offText: 'No' },
    ],
  },
};
