// Package booted boots a Debian with systemd in a container and gives tests a shell in
// it: what a unit, a socket or a package does there is what it does on a machine.
//
// Everything but this comment is behind the build tag booted, as it needs root,
// debootstrap, systemd-nspawn and, the first time, a Debian mirror: make booted.
package booted
