#!/bin/sh
# list.sh ENDPOINT BUCKET
#
# Mounts the bucket and prints the names of its objects, one a line. s3fs has to
# be told where its credentials come from. At IMDS it can look a role's name up
# in version 1 only, so it is told the name: the buckets are named after them.
set -eu
where=iam_role=$2
[ -z "${AWS_CONTAINER_CREDENTIALS_RELATIVE_URI-}" ] || where=ecs

tmp=$(mktemp -d)
mkdir "$tmp/bucket"
s3fs "$2" "$tmp/bucket" -f -o "$where,url=$1,endpoint=${AWS_REGION:-us-east-1},use_path_request_style,retries=1" >"$tmp/log" 2>&1 &
trap 'fusermount -q -u "$tmp/bucket" || kill $! 2>/dev/null || :; wait; cat "$tmp/log" >&2; rm -r "$tmp"' EXIT

until mountpoint -q "$tmp/bucket"; do
	kill -0 $! 2>/dev/null || exit 1 # it gave up
	sleep 0.1
done
ls "$tmp/bucket"
