#!/bin/sh
# The files are in place. deb: "configure" and the version that was there before,
# if any. rpm: 1 at the first installation, 2 at an upgrade.
set -e

case "$1/$2" in
configure/ | 1/) new=true ;;
configure/* | 2/) new=false ;;
*) exit 0 ;; # dpkg takes something back that failed; nothing of ours was done
esac

# A system without systemd (a container) gets the program and no service.
if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers stsbroker.conf
fi
sockets() { # as systemd has them in memory
    systemctl show --property=Listen,SocketMode,SocketUser,SocketGroup,DirectoryMode,FreeBind,Backlog stsbroker.socket || :
}
if [ -d /run/systemd/system ]; then
    before=$(sockets)
    systemctl daemon-reload
    # The sockets stay open meanwhile: who asks during the restart waits, and is
    # not refused. A configuration that the new version does not take is no
    # reason to fail the upgrade of the whole system: systemctl says it.
    systemctl try-restart stsbroker.service || :
    # To open them anew is to refuse who asks meanwhile, so a person says when.
    if ! $new && systemctl --quiet is-active stsbroker.socket && [ "$before" != "$(sockets)" ]; then
        echo "stsbroker: stsbroker.socket has changed; what is open is as before, until: systemctl restart stsbroker.socket stsbroker.service"
    fi
fi

# What service install wrote before the package came is what systemd takes.
if [ -e "${DPKG_ROOT:-}/etc/systemd/system/stsbroker.service" ]; then
    echo "stsbroker: /etc/systemd/system/stsbroker.service comes before the unit of this package; to have this one: stsbroker service uninstall --system, then systemctl enable --now stsbroker"
fi

# Nothing is started: the service of one user and the system's want the same
# port, and only the person here knows which it is to be.
if $new; then
    cat <<'END'
stsbroker is installed; nothing is started. One of the two:
  for yourself     systemctl --user enable --now stsbroker
  for this system  edit /etc/stsbroker/stsbroker.yaml, then
                   systemctl enable --now stsbroker
END
fi
