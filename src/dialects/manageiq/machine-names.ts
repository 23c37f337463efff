/**
 * Names of the real service's machines that mean nothing here: columns of its table, which are null, and what clients ask
 * for beside them. (config/openapi.json of ManageIQ/manageiq-api; vms.service.js of ManageIQ/manageiq-ui-service)
 */

/** Columns, in the order of the table. */
export const unknownOfMachine: readonly string[] = `
  format version config_xml autostart last_sync_on last_scan_on last_scan_attempt_on standby_action
  last_perf_capture_on registered busy smart memory_reserve memory_reserve_expand memory_limit memory_shares
  memory_shares_level cpu_reserve cpu_reserve_expand cpu_limit cpu_shares cpu_shares_level cpu_affinity evm_owner_id
  miq_group_id linked_clone fault_tolerance ems_cluster_id retirement_warn retirement_last_warn retirement_state
  retirement_requester vnc_port flavor_id availability_zone_id cloud_network_id cloud_subnet_id cloud_tenant_id
  publicly_available orchestration_stack_id tenant_id resource_group_id deprecated storage_profile_id
  cpu_hot_add_enabled cpu_hot_remove_enabled memory_hot_add_enabled memory_hot_add_limit memory_hot_add_increment
  hostname ems_ref_type restart_needed ancestry placement_group_id`
  .trim()
  .split(/\s+/);

/** Those of them that are times. */
export const unknownTimesOfMachine: readonly string[] = [
  'last_sync_on',
  'last_scan_on',
  'last_scan_attempt_on',
  'last_perf_capture_on',
  'retirement_last_warn',
];

/** Values computed by the real service. */
export const valuesOfMachine: readonly string[] = `
  vendor_display advanced_settings custom_actions custom_action_buttons disks_aligned last_compliance_status last_compliance_timestamp
  thin_provisioned used_storage vmsafe_enable allocated_disk_storage provisioned_storage used_disk_storage
  cpu_usagemhz_rate_average_avg_over_time_period max_mem_usage_absolute_average_avg_over_time_period
  max_cpu_usage_rate_average_avg_over_time_period aggregate_cpu_speed cpu_cores_per_socket mem_cpu platform
  os_image_name archived orphaned active disconnected evm_owner_name evm_owner_email owning_ldap_group host_name
  storage_name ems_cluster_name v_owning_cluster v_host_vmm_product v_datastore_path v_is_a_template
  supports_console supports_vnc_console supports_cockpit? supports_launch_native_console? region_number
  region_description owned_by_current_user has_rdm_disk ipaddresses hostnames`
  .trim()
  .split(/\s+/);

interface Related {
  readonly name: string;
  readonly isList: boolean;
}

const one = `
  ems_cluster ext_management_system evm_owner hardware host miq_group miq_provision parent_resource_pool service storage
  tenant availability_zone cloud_tenant flavor miq_provision_template orchestration_stack operating_system
  resource_pool parent resource_group placement_group`;

const many = `
  compliances custom_attributes disks drift_states files guest_applications groups kernel_drivers lans
  linux_initprocesses miq_provision_requests miq_provision_vms scan_histories service_resources storages tags users
  cloud_networks cloud_subnets cloud_volumes floating_ip_addresses key_pairs load_balancers network_ports
  network_routers security_groups accounts software policies policy_profiles metric_rollups lifecycle_events`;

/** Associations to what this service does not have. */
export const relatedOfMachine: readonly Related[] = [
  ...one
    .trim()
    .split(/\s+/)
    .map((name) => ({ name, isList: false })),
  ...many
    .trim()
    .split(/\s+/)
    .map((name) => ({ name, isList: true })),
];
