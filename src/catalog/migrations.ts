/**
 * Numbered, forward-only migrations. The text is SQL that SQLite and PostgreSQL share, but for the words in double
 * braces, which the dialect fills in. A migration that was released is never edited.
 */

export const migrations: readonly string[] = [
  `
create table settings (key text primary key, value text not null);

create table projects (
  number {{serial}}, id text not null unique, name text not null unique,
  created_at {{bigint}} not null, version integer not null);

create table users (
  number {{serial}}, id text not null unique, name text not null unique, email text unique,
  password_hash text, is_operator integer not null, disabled integer not null,
  created_at {{bigint}} not null, version integer not null);

create table memberships (
  project_id text not null references projects(id), user_id text not null references users(id),
  role text not null, primary key (project_id, user_id));
create index memberships_by_user on memberships (user_id);

create table grants (
  number {{serial}}, id text not null unique, project_id text not null references projects(id),
  user_id text not null references users(id), object_kind text not null, object_id text not null, access text not null,
  created_at {{bigint}} not null, unique (user_id, object_id));
create index grants_by_object on grants (object_id);
create index grants_by_project on grants (project_id, number);

create table tokens (
  number {{serial}}, id text not null unique, user_id text not null references users(id), name text not null,
  hash text not null unique, prefix text not null, created_at {{bigint}} not null,
  expires_at {{bigint}}, revoked_at {{bigint}});
create index tokens_by_user on tokens (user_id);

create table drives (
  number {{serial}}, id text not null unique, project_id text not null references projects(id), name text not null,
  description text not null, size_bytes {{bigint}} not null, state text not null, meta_json text not null,
  error_json text, based_on text, source_id text, sizes_stale integer not null,
  created_at {{bigint}} not null, updated_at {{bigint}} not null, deleted_at {{bigint}}, version integer not null);
create index drives_by_name on drives (project_id, name, number);
create index drives_by_state on drives (project_id, state, number);

create table snapshots (
  number {{serial}}, id text not null unique, project_id text not null references projects(id), name text not null,
  description text not null, state text not null, meta_json text not null, error_json text, origin text not null,
  consistency text not null, complete integer not null, created_by text,
  created_at {{bigint}} not null, updated_at {{bigint}} not null, version integer not null);
create index snapshots_by_number on snapshots (project_id, number, created_at, name);
create index snapshots_by_name on snapshots (project_id, name, number, created_at);
create index snapshots_by_time on snapshots (project_id, created_at, number, name);
create index snapshots_by_state on snapshots (project_id, state, number, created_at, name);

create table drive_snapshots (
  number {{serial}}, id text not null unique, snapshot_id text not null references snapshots(id),
  drive_id text not null references drives(id), parent_id text, size_bytes {{bigint}} not null,
  changed_bytes {{bigint}}, created_at {{bigint}} not null);
create index drive_snapshots_by_drive on drive_snapshots (drive_id, number, snapshot_id, parent_id);
create index drive_snapshots_by_snapshot on drive_snapshots (snapshot_id);

create table tags (object_id text not null, tag text not null, primary key (object_id, tag)){{clustered}};
create index tags_by_tag on tags (tag, object_id);

create table tasks (
  number {{serial}}, id text not null unique, project_id text, user_id text, via text not null, kind text not null,
  state text not null, object_kind text, object_id text, input_json text not null, result_json text, error_json text,
  progress_done {{bigint}} not null, progress_total {{bigint}} not null, progress_unit text not null,
  speed_limit {{bigint}} not null, cancel_requested integer not null, pause_requested integer not null,
  holds_drives integer not null, created_at {{bigint}} not null, started_at {{bigint}}, finished_at {{bigint}},
  version integer not null);
create index tasks_by_project on tasks (project_id, number);
create index tasks_by_object on tasks (object_id, number);
create index tasks_active on tasks (state, number) where state in ('queued', 'running', 'paused');

create table task_drives (
  task_id text not null references tasks(id), drive_id text not null, primary key (task_id, drive_id)){{clustered}};
create index task_drives_by_drive on task_drives (drive_id, task_id);

create table exports (
  number {{serial}}, id text not null unique, project_id text not null, drive_id text, drive_snapshot_id text,
  writable integer not null, transport text not null, name text not null unique, detail_json text not null,
  created_at {{bigint}} not null);
create index exports_by_drive on exports (drive_id);
create index exports_by_point on exports (drive_snapshot_id);

create table idempotency (
  user_id text not null, key text not null, request_hash text not null, task_id text, object_kind text,
  object_id text, created_at {{bigint}} not null, primary key (user_id, key));
create index idempotency_by_time on idempotency (created_at);

create table events (
  seq {{serial}}, at {{bigint}} not null, project_id text, user_id text, via text not null, kind text not null,
  object_kind text not null, object_id text not null, detail_json text not null);
create index events_by_project on events (project_id, seq);
create index events_by_object on events (object_id, seq);

create table qcow2_files (
  id {{serial}}, backing_id {{bigint}}, state text not null, drive_id text not null, size_bytes {{bigint}} not null,
  level integer not null, data_bytes {{bigint}}, created_at {{bigint}} not null);
create index qcow2_files_by_backing on qcow2_files (backing_id);
create index qcow2_files_by_drive on qcow2_files (drive_id);

create table qcow2_layers (
  id {{serial}}, parent_id {{bigint}}, drive_id text not null, carried {{blob}}, delta {{blob}}, file_id {{bigint}});
create index qcow2_layers_by_parent on qcow2_layers (parent_id);
create index qcow2_layers_by_file on qcow2_layers (file_id);
create index qcow2_layers_by_drive on qcow2_layers (drive_id);

create table qcow2_drives (
  drive_id text primary key, file_id {{bigint}} not null, layer_id {{bigint}} not null, spare_id {{bigint}},
  last_operation text);
create index qcow2_drives_by_file on qcow2_drives (file_id);
create index qcow2_drives_by_layer on qcow2_drives (layer_id);

create table qcow2_points (
  drive_snapshot_id text primary key, drive_id text not null, file_id {{bigint}} not null, layer_id {{bigint}} not null);
create index qcow2_points_by_file on qcow2_points (file_id);
create index qcow2_points_by_layer on qcow2_points (layer_id);
create index qcow2_points_by_drive on qcow2_points (drive_id);

create table qcow2_intents (
  id {{serial}}, kind text not null, plan_json text not null, created_at {{bigint}} not null);
`,
  `
create table machines (
  number {{serial}}, id text not null unique, project_id text not null references projects(id), name text not null,
  description text not null, kind text not null, managed integer not null, state text not null, power text not null,
  hardware_json text not null, boot_json text not null, meta_json text not null, error_json text, based_on text,
  source_id text, started_at {{bigint}}, created_at {{bigint}} not null, updated_at {{bigint}} not null,
  version integer not null);
create index machines_by_name on machines (project_id, name, number);
create index machines_by_state on machines (project_id, state, number);
create index machines_by_power on machines (project_id, power, number);

create table machine_drives (
  machine_id text not null references machines(id), slot integer not null, drive_id text not null unique,
  primary key (machine_id, slot)){{clustered}};

create table machine_snapshots (
  snapshot_id text primary key references snapshots(id), machine_id text not null, machine_name text not null,
  parent_id text, power text not null, kind text not null, boot_json text not null, hardware_json text not null,
  slots_json text not null,
  excluded_json text not null, reason text not null, frozen_us {{bigint}}, pause_us {{bigint}});
create index machine_snapshots_by_machine on machine_snapshots (machine_id, snapshot_id);
create index machine_snapshots_by_parent on machine_snapshots (parent_id);

create table memory_files (
  id {{serial}}, snapshot_id text not null, state text not null, method text not null, accelerator text not null,
  qemu_version text not null, stream_bytes {{bigint}}, stored_bytes {{bigint}}, checksum {{bigint}},
  created_at {{bigint}} not null);
create index memory_files_by_snapshot on memory_files (snapshot_id);

alter table snapshots add column machine_id text;
create index snapshots_by_machine on snapshots (machine_id, number) where machine_id is not null;
alter table exports add column machine_id text;
alter table tasks add column machine_id text;
create index tasks_by_machine on tasks (machine_id, number) where machine_id is not null;
`,
  // Images
  `
create table images (
  number {{serial}}, id text not null unique, project_id text not null references projects(id), name text not null,
  description text not null, kind text not null, state text not null, size_bytes {{bigint}} not null,
  consistency text not null, machine_json text, source_id text not null, meta_json text not null, error_json text,
  created_by text, created_at {{bigint}} not null, updated_at {{bigint}} not null, version integer not null);
create index images_by_time on images (project_id, created_at, number);
create index images_by_name on images (project_id, name, number);
create index images_by_state on images (project_id, state, number);

create table image_parts (
  image_id text not null references images(id), slot integer not null, drive_snapshot_id text not null unique,
  drive_id text not null, drive_name text not null, size_bytes {{bigint}} not null,
  primary key (image_id, slot)){{clustered}};

alter table drives add column image_id text;
create index drives_by_image on drives (image_id, number) where image_id is not null;
alter table machines add column image_id text;
`,
  // Adopted machines
  `
alter table machines add column qmp_path text;
alter table machines add column agent_path text;

alter table qcow2_files add column path text;
alter table qcow2_files add column origin text not null default 'own';
alter table qcow2_files add column format text not null default 'qcow2';
create unique index qcow2_files_by_path on qcow2_files (path) where path is not null;
alter table qcow2_drives add column process_id text;
alter table qcow2_drives add column device text;
alter table qcow2_drives add column place text;
create index qcow2_drives_by_process on qcow2_drives (process_id) where process_id is not null;
`,
  // Machines that are gone keep their numbers while there are snapshots of them; those gone earlier get new ones
  `
alter table snapshots add column available_at {{bigint}};
alter table snapshots add column part_count integer not null default 1;
update snapshots set part_count = (select count(*) from drive_snapshots p where p.snapshot_id = snapshots.id)
  where id in (select snapshot_id from drive_snapshots group by snapshot_id having count(*) <> 1)
    or id not in (select snapshot_id from drive_snapshots);
create index snapshots_by_part_count on snapshots (project_id, number, part_count) where part_count <> 1;
drop index snapshots_by_machine;
create index snapshots_by_machine on snapshots (machine_id, number, created_at, name) where machine_id is not null;
create index snapshots_of_machine_by_time on snapshots (machine_id, created_at, number, name)
  where machine_id is not null;
create index snapshots_of_machine_by_name on snapshots (machine_id, name, number, created_at)
  where machine_id is not null;
create index drive_snapshots_by_time on drive_snapshots (drive_id, created_at, number);
create index tasks_by_user on tasks (project_id, user_id, number);
create index drives_by_number on drives (project_id, number);
create index drives_by_time on drives (project_id, created_at, number);
create index tasks_ended_badly on tasks (project_id, state, number) where state in ('failed', 'cancelled');

create table departed_machines (
  number {{bigint}} primary key, id text not null unique, project_id text not null references projects(id),
  name text not null, kind text not null, created_at {{bigint}} not null, deleted_at {{bigint}} not null);
insert into machines (id, project_id, name, description, kind, managed, state, power, hardware_json, boot_json,
    meta_json, created_at, updated_at, version)
  select s.machine_id, min(s.project_id), min(m.machine_name), '', min(m.kind), 1, 'departed', 'off', '', '', '',
    min(s.created_at), max(s.updated_at), 1
  from snapshots s join machine_snapshots m on m.snapshot_id = s.id
  where s.machine_id is not null and s.machine_id not in (select id from machines) group by s.machine_id;
insert into departed_machines (number, id, project_id, name, kind, created_at, deleted_at)
  select number, id, project_id, name, kind, created_at, updated_at from machines where state = 'departed';
delete from machines where state = 'departed';
`,
  // Tags as objects, traits of drives, preferences of users
  `
create table project_tags (
  number {{serial}}, id text not null unique, project_id text not null references projects(id), name text not null,
  meta_json text not null, created_by text, created_at {{bigint}} not null, updated_at {{bigint}} not null,
  version integer not null, unique (project_id, name));
insert into project_tags (id, project_id, name, meta_json, created_by, created_at, updated_at, version)
  select {{uuid}}, o.project_id, t.tag, '{}', null, min(o.created_at), min(o.created_at), 1
  from tags t join (
    select id, project_id, created_at from drives union all select id, project_id, created_at from snapshots
    union all select id, project_id, created_at from machines union all select id, project_id, created_at from images
  ) o on o.id = t.object_id
  group by o.project_id, t.tag;

create table traits (
  object_id text not null, name text not null, value text not null, primary key (object_id, name)){{clustered}};

create table preferences (
  user_id text not null references users(id), name text not null, value text not null,
  primary key (user_id, name)){{clustered}};
`,
  // What whoever asked for a task calls it
  `
alter table tasks add column title text;
`,
  // What a project is for
  `
alter table projects add column description text not null default '';
`,
];
