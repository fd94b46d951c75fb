#!/bin/sh
# Builds the image twice, to the same digest, and runs its file system by each of the
# examples beside it, with the AWS CLI as the application and a stand-in for STS. No
# daemon: root, buildah, ip and Python's venv are what it takes.
#
# try.sh TEST runs one of the tests.
#
#   AWS   a folder with bin/aws, to use that
set -eu
cd "$(dirname "$0")/../.."
# Mounts of its own, which are gone when it ends.
[ "${TRY_MOUNTS-}" ] || exec env TRY_MOUNTS=1 unshare --mount --propagation private "$0" "$@"

export STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}" BUILDAH_ISOLATION="${BUILDAH_ISOLATION:-chroot}"
digest() { # digest IMAGE
    make -s image IMAGE="$1" >/dev/null
    buildah inspect --type image --format '{{.FromImageDigest}}' "$1"
}
export IMAGE=localhost/stsbroker:try IMAGE_ECS=localhost/stsbroker:try-ecs
first=$(digest $IMAGE-1)
touch dist/image/root/usr/bin/stsbroker # a time is no difference
second=$(digest $IMAGE)
echo "image: $first"
[ "$first" = "$second" ] || { echo "a second build differs: $second" >&2; exit 1; }
buildah bud --timestamp 0 --build-arg STSBROKER=$IMAGE -t $IMAGE_ECS -f deploy/ecs/Containerfile deploy/ecs >/dev/null

PLAY_APP=${AWS-}
if [ -z "$PLAY_APP" ]; then
    PLAY_APP=$PWD/.cache/tools/awscli
    [ -x "$PLAY_APP/bin/aws" ] || {
        /usr/bin/python3 -m venv "$PLAY_APP"
        "$PLAY_APP/bin/pip" install --quiet --require-hashes -r internal/conformance/clients/awscli1/requirements.txt
    }
fi
export PLAY_APP
cd deploy/manifests
go test -tags image -count=1 -v -timeout 5m -run "${1-Runs|Refused|Readme}" .
