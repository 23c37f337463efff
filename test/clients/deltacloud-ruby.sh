#!/usr/bin/env bash
# What the Ruby client (deltacloud-client) sends, by curl: everything in the query string, bodies empty, and a name without a
# value where no device was given. It reads statuses: 204 alone is a deletion.
#
# Takes API, CREDENTIALS (user:password), VOLUME and INSTANCE; prints what it finds, one fact per line.
set -euo pipefail

body=$(mktemp)
trap 'rm -f "$body"' EXIT

call() { # METHOD PATH: the body is in $body afterwards, the status in $status
  status=$(curl --silent --show-error --max-time 60 --output "$body" --write-out '%{http_code}' --request "$1" \
    --user "$CREDENTIALS" --header 'Accept: application/xml' --header 'User-Agent: Faraday v0.8.8' "$API$2")
}

text_of() { sed -n "s/.*<$1[^>]*>\([^<]*\)<\/$1>.*/\1/p" "$body" | head -1; }

call GET '?force_auth=true'
echo "credentials $status"
CREDENTIALS=${CREDENTIALS%:*}:wrong call GET '?force_auth=true'
echo "wrong ones $status: $(cat "$body")"

call POST "/storage_snapshots?volume_id=$VOLUME&name=nightly&description=by+hand"
id=$(sed -n "s/^<storage_snapshot .* id='\([^']*\)'>/\1/p" "$body")
echo "created $status $(text_of name), $(text_of description)"
call GET "/storage_snapshots?id=$id"
echo "filtered $status $(grep -c '<storage_snapshot ' "$body")"
call GET '/storage_snapshots?id=unknown'
echo "filtered $status $(grep -c '<storage_snapshot ' "$body" || true)"
call GET "/storage_snapshots/$id"
echo "shown $status $(text_of name)"
call GET '/storage_snapshots/'
echo "without an id $status"
call DELETE "/storage_snapshots/$id"
echo "deleted $status"
call GET "/storage_snapshots/$id"
echo "gone $status $(text_of code)"
call POST '/storage_snapshots?name=nightly'
echo "refused $status: $(cat "$body")"

call POST "/storage_volumes/$VOLUME/attach?device&instance_id=$INSTANCE"
echo "attached $status $(text_of state)"
call GET "/storage_volumes/$VOLUME"
echo "reloaded $(text_of state) $(grep -c '<mount>' "$body")"
call POST "/storage_volumes/$VOLUME/detach"
echo "detached $status $(text_of state) $(grep -c '<mount>' "$body" || true)"
call POST '/instances/unknown/start'
echo "forbidden $status"
