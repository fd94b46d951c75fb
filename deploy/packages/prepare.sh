#!/bin/sh
# Makes what packages have beside the program: manual pages, completions and the
# licences of what is linked in.
#
#   deploy/packages/prepare.sh FOLDER VERSION SECONDS-SINCE-1970-OF-THE-COMMIT
set -eu
export LC_ALL=C CGO_ENABLED=0 GOOS='' GOARCH='' SOURCE_DATE_EPOCH="$3"
umask 022

rm -rf "$1"
mkdir -p "$1/man" "$1/completions"
go build -trimpath -tags=nethttpomithttp2 -ldflags="-s -w -X main.version=$2" -o "$1/stsbroker" ./cmd/stsbroker
"$1/stsbroker" man "$1/man"
gzip -9n "$1"/man/*.1
for shell in bash zsh fish powershell; do
    "$1/stsbroker" completion "$shell" >"$1/completions/stsbroker.$shell"
done
rm "$1/stsbroker"

# Every licence in there wants its text to go with the program. One file for all
# systems: the libraries of each.
text() { # text TITLE FOLDER
    printf '%s\n\n' "==== $1"
    for file in "$2"/LICENSE* "$2"/LICENCE* "$2"/COPYING* "$2"/NOTICE*; do
        [ ! -f "$file" ] || { found=true && cat "$file" && echo; }
    done
}
{
    echo "Libraries that are linked into stsbroker, with their licences."
    echo
    text "Go's standard library, $(go env GOVERSION)" "$(go env GOROOT)"
    for os in linux darwin windows; do
        GOOS=$os go list -deps -tags=nethttpomithttp2 -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/stsbroker
    done | sort -u | while read -r path version dir; do
        found=false
        text "$path $version" "$dir"
        $found || { echo "$path: no licence found" >&2 && exit 1; }
    done
} >"$1/NOTICES"
