/** The dialects that there are. */
import { cloudsigma } from './cloudsigma/routes.ts';
import { deltacloud } from './deltacloud/routes.ts';
import type { Dialect } from './dialect.ts';

export const dialects: readonly Dialect[] = [cloudsigma, deltacloud];
