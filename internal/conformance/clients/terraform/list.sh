#!/bin/sh
# list.sh TERRAFORM ENDPOINT BUCKET
#
# Prints the names of the bucket's objects, one a line. To init the backend is to
# look for workspaces in the bucket. terraform shows only those, and its log
# everything that the bucket's listing said.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

export TF_DATA_DIR="$tmp/data" TF_LOG_PATH="$tmp/log" TF_LOG=debug TF_IN_AUTOMATION=1 CHECKPOINT_DISABLE=1
# The backend takes the region from these variables alone; any region does here.
export AWS_REGION="${AWS_REGION:-us-east-1}"
AWS_ENDPOINT_URL_S3=$2 "$1" -chdir="$(dirname "$0")" init -input=false -no-color -backend-config="bucket=$3" >&2
grep -o '<Key>[^<]*' "$tmp/log" | cut -d '>' -f 2 | sort -u
