//go:build conformance && linux

package conformance

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// client is a program nobody here wrote, or the thinnest script around an SDK.
type client struct {
	name string
	piece
	argv func(endpoint, bucket string) []string // lists the bucket: one name a line
	// loops says that argv takes one more argument, for how many seconds to go
	// on, and prints a tally. The others are called anew each time.
	loops bool
}

func (c client) title() string { return strings.TrimSpace(c.name + " " + c.version) }

// clients returns the columns of the table.
func (k kit) clients() []client {
	return []client{
		{name: "boto3", piece: k.boto3, loops: true, argv: func(endpoint, bucket string) []string {
			return []string{k.boto3.path, absolute("clients/boto3/list.py"), endpoint, bucket}
		}},
		{name: "AWS CLI", piece: k.awscli, argv: func(endpoint, bucket string) []string {
			return []string{k.awscli.path, "s3api", "list-objects-v2", "--endpoint-url", endpoint, "--bucket", bucket,
				"--query", "Contents[].[Key]", "--output", "text"}
		}},
		{name: "@aws-sdk/client-s3", piece: k.js, loops: true, argv: func(endpoint, bucket string) []string {
			return []string{k.node.path, filepath.Join(k.js.path, "list.mjs"), endpoint, bucket}
		}},
		{name: "Go SDK s3", piece: k.gosdk, loops: true, argv: func(endpoint, bucket string) []string {
			return []string{k.gosdk.path, endpoint, bucket}
		}},
	}
}

func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		panic(err) // no working directory
	}
	return abs
}

// list calls the client once, by way of a prefix of its command line. The
// error shows everything that was printed.
func (c client) list(t *testing.T, h home, way []string, s server) error {
	t.Helper()
	r := h.run(t, append(way[:len(way):len(way)], c.argv(s.endpoint, bucketName)...)...)
	if r.err != nil || strings.TrimSpace(r.stdout) != objectName {
		return fmt.Errorf("%s: %s", c.name, r)
	}
	return nil
}

// tally is what a loop of calls came to.
type tally struct {
	Calls    int      `json:"calls"`
	KeyIDs   int      `json:"key_ids"` // different ones, 0 for a client that does not tell
	Failures []string `json:"failures"`
}

// loop calls the client for so long: one process that keeps its SDK client,
// or, of a command line client, one process after the other.
func (c client) loop(t *testing.T, h home, way []string, s server, d time.Duration) (sum tally, err error) {
	t.Helper()
	if !c.loops {
		for end := time.Now().Add(d); time.Now().Before(end); {
			sum.Calls++
			if err := c.list(t, h, way, s); err != nil {
				sum.Failures = append(sum.Failures, err.Error())
			}
		}
		return sum, nil
	}
	argv := append(c.argv(s.endpoint, bucketName), fmt.Sprint(d.Seconds()))
	r := h.run(t, append(way[:len(way):len(way)], argv...)...)
	if r.err != nil {
		return sum, fmt.Errorf("%s: %s", c.name, r)
	}
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
		return sum, fmt.Errorf("%s: %w: %s", c.name, err, r)
	}
	return sum, nil
}

// table is what the run showed: how a client came to its credentials, down;
// the clients, across.
type table struct {
	clients []client

	mu    sync.Mutex
	hows  []string
	cells map[[2]string]string // by how and client
}

func newTable(clients []client) *table {
	return &table{clients: clients, cells: map[[2]string]string{}}
}

// set notes a cell. A "no" stays: of several tries all have to succeed.
func (tb *table) set(how string, c client, cell string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	at := [2]string{how, c.name}
	if tb.cells[at] != "no" {
		tb.cells[at] = cell
	}
}

// row names a row before its first cell, which keeps the rows in order.
func (tb *table) row(how string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.hows = append(tb.hows, how)
}

func (tb *table) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprint(w, "lists the bucket")
	for _, c := range tb.clients {
		fmt.Fprintf(w, "\t%s", c.title())
	}
	fmt.Fprintln(w)
	for _, how := range tb.hows {
		fmt.Fprint(w, how)
		for _, c := range tb.clients {
			cell := tb.cells[[2]string{how, c.name}]
			if cell == "" {
				cell = "not run"
			}
			fmt.Fprintf(w, "\t%s", cell)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}
