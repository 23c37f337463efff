#!/usr/bin/env bash
# What a configuration of the Go client or the Terraform provider comes to, by curl: from the id of an environment to a
# volume in an instance, a snapshot of it, and back. Requests are spelled as those clients spell them: a base that ends in
# a slash, a question mark at the end, a content type on everything, empty bodies, fields that are not needed.
#
# Takes API (with a slash at the end), KEY, ENVIRONMENT_ID and INSTANCE_ID; prints what it finds, one fact per line.
set -euo pipefail

call() { # METHOD PATH [BODY]: prints the answer; any status but 200 ends the script
  local method=$1 path=$2 answer status
  shift 2
  answer=$(curl --silent --show-error --max-time 30 --write-out '\n%{http_code}' --request "$method" \
    --header "MC-Api-Key: $KEY" --header 'Content-Type: application/json' ${1+--data "$1"} "$API/$path")
  status=${answer##*$'\n'}
  answer=${answer%$'\n'*}
  if [ "$status" != 200 ]; then
    echo "$method $path: $status $answer" >&2
    return 1
  fi
  printf '%s\n' "$answer"
}

finish() { # reads a task reference; polls the task, prints its result
  local id status task
  id=$(jq --exit-status --raw-output .taskId)
  until
    task=$(call GET "tasks/$id?")
    status=$(jq --raw-output .data.status <<<"$task")
    [ "$status" != PENDING ]
  do sleep 0.1; done
  [ "$status" = SUCCESS ] || { echo "task: $task" >&2; return 1; }
  jq --compact-output .data.result <<<"$task"
}

missing() { # PATH: succeeds when the answer is exactly 404 with errors
  local answer
  answer=$(curl --silent --write-out '\n%{http_code}' --header "MC-Api-Key: $KEY" "$API/$1?")
  [ "${answer##*$'\n'}" = 404 ] && jq --exit-status '.errors | length > 0' <<<"${answer%$'\n'*}" >/dev/null
}

environment=$(call GET "environments/$ENVIRONMENT_ID?")
service=$(jq --exit-status --raw-output .data.serviceConnection.serviceCode <<<"$environment")
base="services/$service/$(jq --exit-status --raw-output .data.name <<<"$environment")"
echo "base $base"

offering=$(call GET "$base/diskofferings?" | jq --exit-status --raw-output '.data[] | select(.customSize) | .id')
volume=$(call POST "$base/volumes?" "{\"name\":\"tf-data\",\"diskOfferingId\":\"$offering\",\"sizeInGb\":1,\"instanceId\":\"$INSTANCE_ID\"}" |
  finish | jq --exit-status --raw-output .id)
echo "volume $(call GET "$base/volumes/$volume?" | jq --raw-output '.data | "\(.name) \(.type) \(.sizeInGb) \(.state)"')"
echo "of type DATA $(call GET "$base/volumes?type=DATA" | jq "[.data[] | select(.id == \"$volume\")] | length")"

call POST "$base/volumes/$volume?operation=resize" "{\"id\":\"$volume\",\"sizeInGb\":2}" | finish | jq --raw-output '"resized \(.sizeInGb)"'

snapshot=$(call POST "$base/snapshots?" "{\"volumeId\":\"$volume\",\"name\":\"tf-snapshot\",\"rapid\":true}" | finish)
id=$(jq --exit-status --raw-output .id <<<"$snapshot")
echo "snapshot $(jq --raw-output '"\(.name) \(.state) \(.volume) \(.volumeType)"' <<<"$snapshot")"
echo "listed $(call GET "$base/snapshots?volume_id=$volume" | jq --raw-output '"\(.metadata.recordCount) \(.data[0].state)"')"
unnamed=$(call POST "$base/volumes/$volume?operation=createSnapshotFromVolume" '' | finish | jq --raw-output .id)
call DELETE "$base/snapshots/$unnamed?" '' | finish >/dev/null
call DELETE "$base/snapshots/$id?" | finish >/dev/null
missing "$base/snapshots/$id" && echo 'snapshot gone'

call POST "$base/volumes/$volume?operation=detachFromInstance" '' | finish | jq --raw-output '"detached \(has("instanceId") | not)"'
call DELETE "$base/volumes/$volume?" '' | finish >/dev/null
missing "$base/volumes/$volume" && echo 'volume gone'
