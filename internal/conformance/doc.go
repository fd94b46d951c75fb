// Package conformance runs the real stsbroker binary between servers and
// clients that other people wrote, on loopback only: Ceph RGW and MinIO mint
// the credentials, and boto3, the AWS CLI, the JavaScript SDK and the Go SDK
// list a bucket with them. VersityGW answers with errors that are shaped as
// AWS's. The stand-in for STS that other tests use is held against botocore's
// model of the service.
//
// It holds tests alone, all but matrix_test.go behind the build tag conformance,
// because they install software and take minutes:
//
//	make conformance
//	go test -tags conformance -count=1 -v -timeout 20m ./internal/conformance
//
// make conformance-all adds what takes longer to install: moto, fakecloud, and
// SAML assertions that a real identity provider signs and xmlsec1 checks. It
// writes docs/sts.md, which says what was verified where; make test holds that
// file's form against matrix_test.go, make conformance its content.
//
// The rooms, in the order of a run:
//
//   - install_test.go puts the pinned programs into the cache folder
//     ($STSBROKER_CACHE, else .cache at the top of the repository). Debian
//     packages are installed only as root and only when missing.
//   - servers_test.go starts the servers on free ports and sets them up.
//   - daemon_test.go runs stsbroker serve in a home folder of its own.
//   - clients_test.go knows how each client is called.
//   - conformance_test.go says what must hold of clients, and prints the table.
//   - sts_test.go says what must hold of mints: durations, trust, identities,
//     and time that has passed (clock_test.go builds a binary for it).
//   - versity_test.go, moto_test.go, fakecloud_test.go, saml_test.go: the same at
//     those servers.
//   - model_test.go and model/model.py hold the stand-in against the model.
//   - matrix_test.go knows the rows and columns of docs/sts.md; report_test.go
//     writes it, or compares.
//   - process_test.go starts and ends the child processes.
//
// What cannot be installed prints "not run: REASON" and is skipped; with
// CI=true in the environment it fails instead.
package conformance
