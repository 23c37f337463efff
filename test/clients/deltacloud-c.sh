#!/usr/bin/env bash
# What the C client (libdeltacloud) sends for a snapshot and a volume, by curl. It finds its way from the entry point, posts
# forms, uses the href of a member to delete it, and takes an answer for an error by its first bytes alone.
#
# Takes API, CREDENTIALS (user:password), VOLUME and INSTANCE; prints what it finds, one fact per line.
set -euo pipefail

body=$(mktemp)
trap 'rm -f "$body"' EXIT

call() { # METHOD URL [curl options]: the body is in $body afterwards, the status in $status
  local method=$1 url=$2
  shift 2
  status=$(curl --silent --show-error --max-time 60 --output "$body" --write-out '%{http_code}' --request "$method" \
    --user "$CREDENTIALS" --header 'Accept: application/xml' "$@" "$url")
}

failed() { [ "$(head -c 6 "$body")" = '<error' ]; }
href_of() { sed -n "s/.*<link href='\([^']*\)' rel='$1'>.*/\1/p" "$body"; }
own_href() { sed -n "s/^<$1 href='\([^']*\)' id=.*/\1/p" "$body"; }
text_of() { sed -n "s/.*<$1[^>]*>\([^<]*\)<\/$1>.*/\1/p" "$body" | head -1; }

call GET "$API"
snapshots=$(href_of storage_snapshots)
volumes=$(href_of storage_volumes)
echo "driver $(sed -n "s/^<api driver='\([^']*\)'.*/\1/p" "$body")"

call POST "$snapshots" --data "volume_id=$VOLUME&name=before%20upgrade"
failed && exit 1
snapshot=$(own_href storage_snapshot)
echo "created $(text_of name), $(text_of state)"

call GET "$API/storage_snapshots/${snapshot##*/}"
echo "found $(text_of name)"

call GET "$snapshots"
echo "listed $(grep -c "<storage_snapshot href='$snapshot'" "$body")"

call DELETE "$snapshot"
echo "deleted $status, $(wc -c < "$body") bytes"

call GET "$snapshot"
failed && echo "gone $status"

call DELETE "$snapshot"
failed && echo "not deleted again $status"

# It names the volume twice, and detaches with an empty form.
call POST "$volumes/$VOLUME/attach" --data "id=$VOLUME&instance_id=$INSTANCE&device=%2Fdev%2Fsdh"
echo "attached $(text_of state) $(text_of device) $(text_of realm_id)"
call POST "$volumes/$VOLUME/detach" --header 'Content-Type: application/x-www-form-urlencoded' --data ''
echo "detached $(text_of state)"

call POST "$volumes/$VOLUME/attach" --data "instance_id=none&device="
failed && echo "not attached $status"
