#!/bin/sh
# The files are gone. deb: "remove", "purge" (after remove, then or years later),
# or what belongs to an upgrade. rpm: 0 when the last version went, 1 at an upgrade.
set -e

reload() {
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || :
    fi
}

case "$1" in
remove | 0)
    rm -rf /run/stsbroker # root's folder of the sockets; what was in it ended with them
    reload
    if [ -e /var/lib/stsbroker/keys ]; then
        echo "stsbroker: the sealed long-term keys stay in /var/lib/stsbroker."
        [ "$1" = 0 ] || echo "stsbroker: purge deletes them for good; AWS shows no secret of a key twice."
    fi
    ;;
purge)
    # What Debian's policy (6.8, 10.7.3) wants gone after a purge: configuration,
    # and what the program made. What was configured to be elsewhere (audit.file,
    # files:) is its owner's.
    if [ -e /var/lib/stsbroker/keys ]; then
        echo "stsbroker: deleting /var/lib/stsbroker, with the long-term keys sealed there."
    fi
    if [ -e /etc/credstore.encrypted/stsbroker-identity ]; then # systemd's store, and a copy of the keys may need it
        echo "stsbroker: /etc/credstore.encrypted/stsbroker-identity stays: it opens copies of /var/lib/stsbroker/keys. Remove it yourself."
    fi
    rm -rf /var/lib/stsbroker /var/log/stsbroker /run/stsbroker /etc/stsbroker
    # All that was of this user is deleted, so nobody can inherit it with the uid.
    # One that somebody runs something as stays, and userdel says so.
    if getent passwd stsbroker >/dev/null && command -v userdel >/dev/null; then
        userdel stsbroker || :
    fi
    if getent group stsbroker >/dev/null && ! getent passwd stsbroker >/dev/null && command -v groupdel >/dev/null; then
        groupdel stsbroker || :
    fi
    reload
    ;;
esac
