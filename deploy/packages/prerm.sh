#!/bin/sh
# The files are still there. deb: "remove", or "upgrade" and a version. rpm: 0
# when the last version goes, 1 at an upgrade.
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;; # an upgrade leaves it running: postinst restarts it, under sockets that stay open
esac

command -v systemctl >/dev/null || exit 0
units='stsbroker.service stsbroker.socket'
if [ -d /run/systemd/system ]; then
    # Sockets first: else the next request starts the service again. What systemctl
    # cannot do here and below, it says; the package goes nevertheless.
    systemctl stop stsbroker.socket stsbroker.service || :
fi
# shellcheck disable=SC2086 # two words
systemctl --quiet disable $units || :
# shellcheck disable=SC2086
systemctl --quiet --global disable $units || :
