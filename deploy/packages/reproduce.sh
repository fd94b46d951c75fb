#!/bin/sh
# Builds the release of this commit twice, in two clones as unlike as one machine
# allows, and compares bytes: the program, and every file of dist.
#
#   deploy/packages/reproduce.sh GORELEASER [TARGET…]    (default: linux_amd64)
#
# The second clone has another path, umask, time zone, language, module cache and
# an empty build cache, so all of it is compiled again.
set -eu
goreleaser=$1
shift
[ $# -gt 0 ] || set -- linux_amd64
targets=$(echo "$*" | sed 's/ /, /g')

there=$(mktemp -d)
trap 'chmod -R u+w "$there"; rm -rf "$there"' EXIT
trap 'exit 1' INT TERM
commit=$(git rev-parse HEAD)
[ -z "$(git status --porcelain)" ] || echo "what is not committed is left out: it is $commit that is built"
sed "s/^\( *targets:\).*/\1 [$targets]/" .goreleaser.yaml >"$there/goreleaser.yaml"

build() { # build CLONE
    git clone -q . "$1"
    (cd "$1" && git checkout -q "$commit" && "$goreleaser" release --snapshot --clean --config "$there/goreleaser.yaml") >"$there/log" 2>&1 || {
        cat "$there/log" >&2
        exit 1
    }
}
modules=$(go env GOMODCACHE)
build "$there/a"
(
    umask 077
    export TZ=Pacific/Chatham LC_ALL=tr_TR.UTF-8 GOCACHE="$there/cache" GOMODCACHE="$there/modules" GOPROXY="file://$modules/cache/download"
    build "$there/another/place/to/build/in"
)

# config.yaml, metadata.json and artifacts.json are goreleaser's notes on itself.
sums() { (cd "$1/dist" && find . -type f ! -name 'config.yaml' ! -name 'metadata.json' ! -name 'artifacts.json' -exec sha256sum {} + | sort -k 2); }
sums "$there/a" >"$there/a.sums"
sums "$there/another/place/to/build/in" >"$there/b.sums"
for side in a b; do
    echo "$side: $(grep '/stsbroker\(\.exe\)\?$' "$there/$side.sums")"
done
if ! diff "$there/a.sums" "$there/b.sums"; then
    echo "the two builds differ" >&2
    exit 1
fi
echo "the two builds of $commit are identical: $(wc -l <"$there/a.sums") files"
