// Package conformance runs the real stsbroker binary between servers and
// clients that other people wrote, on loopback only: Ceph RGW and MinIO mint
// the credentials, and boto3, the AWS CLI, the JavaScript SDK and the Go SDK
// list a bucket with them. VersityGW answers with errors that are shaped as
// AWS's. The stand-in for STS that other tests use is held against botocore's
// model of the service.
//
// It holds tests alone, all but matrix_test.go and doors_report_test.go behind the
// build tag conformance, because they install software and take minutes:
//
//	make conformance
//	go test -tags conformance -count=1 -v -timeout 20m ./internal/conformance
//
// make conformance-all adds what takes longer to install: moto, fakecloud, SAML
// assertions that a real identity provider signs and xmlsec1 checks, and a dozen
// more clients. It writes docs/sts.md, which says what was verified where, and
// docs/conformance.md, which says what client came through which door; make test
// holds their form, make conformance their content.
//
// The rooms, in the order of a run:
//
//   - install_test.go puts the pinned programs into the cache folder
//     ($STSBROKER_CACHE, else .cache at the top of the repository). Debian
//     packages are installed only as root and only when missing.
//   - servers_test.go starts the servers on free ports and sets them up.
//   - daemon_test.go runs stsbroker serve in a home folder of its own.
//   - clients_test.go knows how each client is called; clients_more_test.go and
//     install_more_test.go are those of make conformance-all.
//   - conformance_test.go says what must hold of clients, and prints the table.
//   - sts_test.go says what must hold of mints: durations, trust, identities,
//     and time that has passed (clock_test.go builds a binary for it).
//   - versity_test.go, moto_test.go, fakecloud_test.go, saml_test.go: the same at
//     those servers.
//   - rotate_versity_test.go kills a rotation of VersityGW's access keys after each of
//     its steps, and goes on with it.
//   - sso_*_test.go and sso/ hold the sign-in and its stand-in against botocore's models,
//     and sign in with headless Chromium.
//   - evening_test.go is a new user's evening in a terminal; it writes docs/evening.md.
//   - model_test.go and model/model.py hold the stand-in against the model.
//   - doors_test.go leads every client through every door, in the network namespace
//     of netns_test.go where a door has an address of its own; doors_report_test.go
//     knows who cannot, and writes docs/conformance.md.
//   - day_test.go leads SDKs, a broker and an STS through a simulated day
//     (day_install_test.go, day/).
//   - matrix_test.go knows the rows and columns of docs/sts.md; report_test.go
//     writes it, or compares.
//   - process_test.go starts and ends the child processes.
//
// What cannot be installed prints "not run: REASON" and is skipped; with
// CI=true in the environment it fails instead.
package conformance
