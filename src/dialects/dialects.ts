/** The dialects that there are. */
import { deltacloud } from './deltacloud/routes.ts';
import type { Dialect } from './dialect.ts';

export const dialects: readonly Dialect[] = [deltacloud];
