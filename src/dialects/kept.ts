/**
 * What was made of an object that the service remembers. It hands out the same object for as long as no row has changed, and
 * another one afterwards; so what polling clients are sent again and again need be made only once.
 */

/** Forms that one object is asked for in: hosts, formats, parameters. */
const formsOfOne = 12;

export class Kept<T extends {}> {
  readonly #made = new WeakMap<object, Map<string, T>>();

  /** @param form everything else that it depends on */
  get(madeOf: object, form: string): T | undefined {
    return this.#made.get(madeOf)?.get(form);
  }

  keep(madeOf: object, form: string, made: T): T {
    const forms = this.#made.get(madeOf) ?? new Map<string, T>();
    if (forms.size >= formsOfOne) forms.clear();
    forms.set(form, made);
    this.#made.set(madeOf, forms);
    return made;
  }
}
