/** The commands as people have them in their scripts: curl in a shell, the answer piped into a JSON tool. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Panel, type Slice } from './testing/panel.ts';

const MiB = 1024 * 1024;
const run = promisify(execFile);
let panel: Panel;
let slice: Slice;

beforeAll(async () => {
  panel = await Panel.start();
  slice = await panel.slice('web.example.net', [MiB]);
});
afterAll(() => panel[Symbol.asyncDispose]());

/** The output of a script for bash, which ends at its first failure. */
async function bash(script: string, base: string, more: Record<string, string> = {}): Promise<string> {
  const env = {
    PATH: process.env.PATH,
    API: `${base}/api/v1`,
    API_TOKEN: panel.rig.admin.token,
    SLICE_ID: String(slice.id),
    ...more,
  };
  const { stdout } = await run('bash', ['-euo', 'pipefail', '-c', script], { env });
  return stdout;
}

const bases = () => [panel.rig.origin('syminet'), `${panel.rig.origin('native')}/syminet`];

const list = `curl -s "$API/images/snapshots/$SLICE_ID" \\
-H "authorization:bearer $API_TOKEN" | python3 -m json.tool`;

const create = `curl -s -X POST "$API/images/snapshots/$SLICE_ID/create" \\
-H "content-type: application/json" \\
-H "authorization:bearer $API_TOKEN" \\
-d '

{
  "snapshot_name": "before-upgrade-1733300000"
}

'`;

describe.each([0, 1])('at base %i', (at) => {
  const script = (text: string, more?: Record<string, string>) => bash(text, bases()[at] ?? '', more);

  test('create with blank lines around the body, found by name, restored, renamed, deleted', async () => {
    expect(JSON.parse(await script(`${create} | python3 -m json.tool`))).toEqual({ status: 'OK' });
    const { data } = JSON.parse(await script(list));
    expect(data).toMatchObject([{ name: 'before-upgrade-1733300000', backup_full_size: 1 }]);
    const SNAPSHOT_ID = String(data[0].id);
    const wait = `until curl -s "$API/images?query=before-upgrade" -H "authorization:bearer $API_TOKEN" |
      python3 -c 'import json, sys; sys.exit(json.load(sys.stdin)["data"][0]["in_progress"] is not None)'; do :; done`;
    await script(wait);

    const restore = `curl -s -o /dev/null -w '%{http_code}' -X POST \\
      "$API/images/snapshots/$SNAPSHOT_ID/restore/$SLICE_ID" -H "authorization:bearer $API_TOKEN"`;
    expect(await script(restore, { SNAPSHOT_ID })).toBe('202');
    await script(wait);
    const rename = `curl -s -w '%{http_code}' -X POST "$API/images/snapshots/$SNAPSHOT_ID/rename" \\
      -H "content-type: application/json" -H "authorization:bearer $API_TOKEN" -d '
      {"snapshot_name": "kept"}
      '`;
    expect(await script(rename, { SNAPSHOT_ID })).toBe('{"status":"OK"}202');
    const remove = `curl -s -w '%{http_code}' -X DELETE "$API/images/snapshots/$SNAPSHOT_ID/delete" \\
      -H "authorization:bearer $API_TOKEN"`;
    expect(await script(remove, { SNAPSHOT_ID })).toBe('{"status":"OK"}202');
    expect(JSON.parse(await script(list))).toEqual({ data: [] });
    expect(await script(remove, { SNAPSHOT_ID })).toBe(`{"error":"There is no snapshot ${SNAPSHOT_ID}."}404`);
    await panel.rig.settled();
  });

  test('a loop over pages ends on the empty page', async () => {
    const loop = `page=0; pages=1; rounds=0
      while [ "$page" -lt "$pages" ]; do
        rounds=$((rounds + 1))
        read -r page pages < <(curl -s "$API/images?page=$((page + 1))&query=nothing-of-that-name" \\
          -H "authorization:bearer $API_TOKEN" |
          python3 -c 'import json, sys; a = json.load(sys.stdin); print(a["page"], a["pages"])')
      done; echo "$rounds"`;
    expect(await script(loop)).toBe('1\n');
  });

  test('JSON as a form, as curl -d sends it without a content type', async () => {
    const create = `curl -sf -d '{"snapshot_name":"as a form"}' "$API/images/snapshots/$SLICE_ID/create" \\
      -H "authorization:bearer $API_TOKEN"`;
    expect(await script(create)).toBe('{"status":"OK"}');
    await panel.rig.settled();
    const [{ id }] = JSON.parse(await script(list)).data;
    await panel.change('DELETE', `/images/snapshots/${id}/delete`);
  });

  test('switching backups by GET, in both spellings, says why not', async () => {
    for (const path of ['backups/$SLICE_ID/backups/enable', 'slices/$SLICE_ID/backups/disable']) {
      const text = `curl -s "$API/${path}" -H "authorization:bearer $API_TOKEN" | python3 -m json.tool`;
      expect(Object.keys(JSON.parse(await script(text)))).toEqual(['error']);
    }
  });

  test('regions, dists and sizes without a token; all else says error', async () => {
    const keys = `for what in regions dists sizes; do curl -sf "$API/slices/$what"; done`;
    expect(await script(keys)).toContain('"region":"LOCAL1"');
    expect(await script('curl -s "$API/slices"')).toMatch(/^\{"error":"[^"]+"\}$/);
    expect(await script('curl -s "$API/slices" -H "authorization:bearer x$API_TOKEN"')).toMatch(/^\{"error":/);
  });
});
