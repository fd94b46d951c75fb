// Package conformance runs the real stsbroker binary between servers and
// clients that other people wrote, on loopback only: Ceph RGW and MinIO mint
// the credentials, and boto3, the AWS CLI, the JavaScript SDK and the Go SDK
// list a bucket with them.
//
// It holds tests alone, behind the build tag conformance, because it installs
// software and takes minutes:
//
//	make conformance
//	go test -tags conformance -count=1 -v -timeout 20m ./internal/conformance
//
// The rooms, in the order of a run:
//
//   - install_test.go puts the pinned programs into the cache folder
//     ($STSBROKER_CACHE, else .cache at the top of the repository). Debian
//     packages are installed only as root and only when missing.
//   - servers_test.go starts the servers on free ports and sets them up.
//   - daemon_test.go runs stsbroker serve in a home folder of its own.
//   - clients_test.go knows how each client is called.
//   - conformance_test.go says what must hold, and prints the table.
//   - process_test.go starts and ends the child processes.
//
// What cannot be installed prints "not run: REASON" and is skipped; with
// CI=true in the environment it fails instead.
package conformance
