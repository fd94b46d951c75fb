package conformance

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// matrixFile is what make conformance-all writes.
const matrixFile = "../../docs/sts.md"

// actions are the rows: everything that STS can be asked for. A run holds them
// against botocore's model of the service.
var actions = []string{
	"GetSessionToken", "AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "GetFederationToken",
	"AssumeRoot", "GetDelegatedAccessToken",
	"GetCallerIdentity", "GetAccessKeyInfo", "DecodeAuthorizationMessage", "GetWebIdentityToken",
}

// The columns.
const (
	rgwServer       = "Ceph RGW"
	minioServer     = "MinIO"
	versityServer   = "VersityGW"
	motoServer      = "moto"
	fakecloudServer = "fakecloud"
	standIn         = "the stand-in"
)

var servers = []string{rgwServer, minioServer, versityServer, motoServer, fakecloudServer, standIn}

// facet is what can be verified of an action at a server.
type facet string

// The facets, in the order of a cell.
const (
	throughBroker = facet("through the broker")
	signature     = facet("signature")
	trust         = facet("trust")
	identity      = facet("identity")
	duration      = facet("duration")
	sessionPolicy = facet("session policy")
	mfa           = facet("MFA")
	expiry        = facet("expiry")
	renewal       = facet("renewal")
	clockOffset   = facet("clock")
	errorShape    = facet("errors")
	shape         = facet("shape")
)

var facets = []struct {
	facet
	means string
}{
	{throughBroker, "stsbroker made the call, and used or checked what came of it"},
	{signature, "the same call signed with another secret is refused"},
	{trust, "refused where the trust policy names somebody else, allowed where it names the caller (AssumeRoot: where the account is a member)"},
	{identity, "a token or assertion of the identity provider is taken, and one that is spoilt, foreign or expired is refused"},
	{duration, "the shortest and the longest time are granted, and the server itself refuses what lies outside"},
	{sessionPolicy, "the set can do less than its role, as the policy passed along says"},
	{mfa, "a right code is taken, a wrong one refused"},
	{expiry, "the server refuses a set after its end"},
	{renewal, "the broker had renewed that set by itself, and the server accepts the new one"},
	{clockOffset, "a host whose clock is 16 minutes behind the server's mints, and tells its clients the right end"},
	{errorShape, "refusals are shaped as AWS's, and the broker repeats their code and words"},
	{shape, "answers and errors hold what botocore's model of STS says, and nothing else"},
}

// onlyAWS is what no server that can be installed can prove.
var onlyAWS = [][2]string{
	{"MFA", "that AWS takes a code, once, of the device of this user; the servers above compute codes as RFC 6238 has it"},
	{"AssumeRoot", "that a member account's root session is granted to an organization's management account, and is held to its task policy"},
	{"GetFederationToken", "that a federated user may do what the user and the policy have in common"},
	{"GetDelegatedAccessToken", "that a trade-in token is honoured, and for whom"},
	{"GetWebIdentityToken", "that AWS signs the token with the account's own issuer, and that outbound federation is switched on"},
	{"DecodeAuthorizationMessage", "that a message which AWS encoded decodes"},
	{"packed policy size", "how AWS packs policies and tags, and so when a request is too large"},
	{"role limits", "the maximum session duration of a role, and the hour that chaining allows"},
	{"SAML", "that AWS trusts the provider's metadata, and takes its claims for conditions of the trust policy"},
	{"source identity, transitive tags", "that they are kept over a chain of roles"},
	{"endpoints", "regional, dual-stack and FIPS names, a region that is disabled, the other partitions"},
	{"throttling", "the rate that AWS allows an account"},
}

// matrix is what a run verified. A cell holds words of facets, or says why it
// holds none. Safe for concurrent use.
type matrix struct {
	mu       sync.Mutex
	seen     map[[2]string][]facet // by action and server
	absent   map[[2]string]string  // what the server said to an action that it does not know
	notRun   map[string]string     // by server: the reason
	versions map[string]string
}

func newMatrix() *matrix {
	return &matrix{seen: map[[2]string][]facet{}, absent: map[[2]string]string{}, notRun: map[string]string{}, versions: map[string]string{}}
}

// saw notes what the assertions before it have shown. A test that has failed
// has shown nothing.
func (m *matrix) saw(t *testing.T, server, action string, shown ...facet) {
	t.Helper()
	if t.Failed() || t.Skipped() {
		return
	}
	if !slices.Contains(actions, action) || !slices.Contains(servers, server) {
		t.Fatalf("no row %s or no column %s", action, server)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at := [2]string{action, server}
	for _, f := range shown {
		if !slices.Contains(m.seen[at], f) {
			m.seen[at] = append(m.seen[at], f)
		}
	}
}

// has reports whether anything was shown of an action.
func (m *matrix) has(server, action string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.seen[[2]string{action, server}]) > 0
}

// lacks notes that a server refused an action as unknown.
func (m *matrix) lacks(t *testing.T, server, action, code string) {
	if t.Failed() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.absent[[2]string{action, server}] = code
}

func (m *matrix) skip(server, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	reason = oneCell(reason)
	m.notRun[server] = reason[:min(len(reason), 200)]
}

func (m *matrix) version(server, version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.versions[server] = oneCell(version)
}

func (m *matrix) cell(action, server string) string {
	at := [2]string{action, server}
	if why, skipped := m.notRun[server]; skipped {
		return "not run: " + why
	}
	var words []string
	for _, f := range facets {
		if slices.Contains(m.seen[at], f.facet) {
			words = append(words, string(f.facet))
		}
	}
	switch {
	case len(words) == 1 && words[0] == string(shape):
		return "shape only"
	case words != nil:
		return strings.Join(words, ", ")
	case m.absent[at] != "":
		return "no such action (" + m.absent[at] + ")"
	}
	return "nothing"
}

// disagreements says where the document differs from what this run verified, in
// the columns of servers that ran now and then. Of the stand-in, make
// conformance-all shows more than make conformance: the document may say more.
func (m *matrix) disagreements(document string) (bad []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := tables(document)
	if len(all) == 0 {
		return []string{"no table"}
	}
	for _, row := range all[0][1:] {
		for i, s := range servers {
			now := m.cell(row[0], s)
			if _, ran := m.versions[s]; !ran || i+1 >= len(row) || strings.HasPrefix(now, "not run: ") || strings.HasPrefix(row[i+1], "not run: ") {
				continue
			}
			if now != row[i+1] && !(s == standIn && within(now, row[i+1])) {
				bad = append(bad, fmt.Sprintf("%s at %s: it says %q, this run says %q", row[0], s, row[i+1], now))
			}
		}
	}
	return bad
}

// within reports whether the second cell has every word of the first.
func within(less, more string) bool {
	words := strings.Split(more, ", ")
	for word := range strings.SplitSeq(less, ", ") {
		if !slices.Contains(words, word) {
			return false
		}
	}
	return true
}

// oneCell makes a text fit for a cell of a table.
func oneCell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", "/")
}

// String is the document.
func (m *matrix) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	row := func(cells ...string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	rule := func(n int) { b.WriteString("|" + strings.Repeat("---|", n) + "\n") }

	b.WriteString(`# STS: what was verified, and where

Written by ` + "`make conformance-all`" + `, from assertions that passed in that run; not edited by hand. ` + "`make conformance`" + ` holds the columns of
the servers that it runs against it.

`)
	row(append([]string{"action"}, servers...)...)
	rule(1 + len(servers))
	for _, a := range actions {
		cells := []string{a}
		for _, s := range servers {
			cells = append(cells, m.cell(a, s))
		}
		row(cells...)
	}
	b.WriteString("\n| word | what was seen |\n|---|---|\n")
	for _, f := range facets {
		row(string(f.facet), f.means)
	}
	row("shape only", "the shape, and none of what it would grant or refuse")
	row("no such action", "the server answers so, with the code in brackets")
	row("nothing", "not asked, or the server was seen to check nothing of it")
	b.WriteString("\n## Servers\n\n| server | version |\n|---|---|\n")
	for _, s := range servers {
		v := m.versions[s]
		if why, skipped := m.notRun[s]; skipped {
			v = "not run: " + why
		}
		row(s, v)
	}
	b.WriteString("\n## What only AWS can prove\n\nNo server that can be installed proves these, whatever it was seen to check above.\n\n| what | why |\n|---|---|\n")
	for _, o := range onlyAWS {
		row(o[0], o[1])
	}
	return b.String()
}

// tables reads the tables of a document: for each, rows of cells, the header
// first.
func tables(document string) (all [][][]string) {
	inside := false
	for line := range strings.Lines(document) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			inside = false
			continue
		}
		if strings.Trim(line, "|-") == "" {
			continue
		}
		if !inside {
			all, inside = append(all, nil), true
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		all[len(all)-1] = append(all[len(all)-1], cells)
	}
	return all
}

// faults says where the document is not one that this code writes: other rows
// or columns, other words, empty cells.
func faults(document string) (bad []string) {
	blank := newMatrix()
	got, want := tables(document), tables(blank.String())
	if len(got) != len(want) {
		return []string{fmt.Sprintf("%d tables, want %d", len(got), len(want))}
	}
	for i, table := range want {
		if len(got[i]) != len(table) {
			bad = append(bad, fmt.Sprintf("table %d has %d rows, want %d", i+1, len(got[i]), len(table)))
			continue
		}
		for j, row := range table {
			have := got[i][j]
			switch {
			case len(have) != len(row):
				bad = append(bad, fmt.Sprintf("row %q has %d cells, want %d", have[0], len(have), len(row)))
			case have[0] != row[0]:
				bad = append(bad, fmt.Sprintf("row %q, want %q", have[0], row[0]))
			case (j == 0 || i == 1 || i == 3) && !slices.Equal(have, row): // headers, and the texts of this code
				bad = append(bad, fmt.Sprintf("row %q is %q, want %q", have[0], have, row))
			case slices.Contains(have, ""):
				bad = append(bad, fmt.Sprintf("row %q has an empty cell", have[0]))
			case i == 0 && j > 0:
				for k, cell := range have[1:] {
					if !possible(cell) {
						bad = append(bad, fmt.Sprintf("row %q, column %q: %q is nothing that a run writes", have[0], servers[k], cell))
					}
				}
			}
		}
	}
	return bad
}

// possible reports whether a run could have written the cell.
func possible(cell string) bool {
	for _, prefix := range []string{"not run: ", "no such action ("} {
		if rest, ok := strings.CutPrefix(cell, prefix); ok {
			return rest != ""
		}
	}
	if cell == "shape only" || cell == "nothing" {
		return true
	}
	last := -1
	for word := range strings.SplitSeq(cell, ", ") {
		at := slices.IndexFunc(facets, func(f struct {
			facet
			means string
		}) bool {
			return string(f.facet) == word
		})
		if at <= last {
			return false
		}
		last = at
	}
	return true
}

func TestMatrixIsOfThisCode(t *testing.T) {
	document, err := os.ReadFile(matrixFile)
	if err != nil {
		t.Fatalf("%v; make conformance-all writes it", err)
	}
	for _, bad := range faults(string(document)) {
		t.Errorf("docs/sts.md: %s; run make conformance-all", bad)
	}
}

// The check finds what it is there for.
func TestMatrixFaultsAreFound(t *testing.T) {
	m := newMatrix()
	m.saw(t, rgwServer, "AssumeRole", trust, throughBroker)
	m.lacks(t, rgwServer, "AssumeRoot", "InvalidAction")
	m.skip(motoServer, "no | network")
	for _, s := range servers {
		m.version(s, "v1")
	}
	good := m.String()
	if bad := faults(good); bad != nil {
		t.Fatalf("a document of this code: %q", bad)
	}
	for _, change := range [][2]string{
		{"| AssumeRoot |", "| AssumeBranch |"},
		{"| " + motoServer + " | " + fakecloudServer, "| " + fakecloudServer + " | " + motoServer},
		{"through the broker, trust", "trust, through the broker"},
		{"through the broker, trust", "trust, trust"},
		{"through the broker, trust", "everything"},
		{"| through the broker, trust ", "| "},
		{"through the broker, trust", ""},
		{"not run: no / network", "not run: "},
		{"## Servers", "| a | b |"},
		{facets[1].means, "something"},
		{onlyAWS[1][1], "something"},
	} {
		spoilt := strings.Replace(good, change[0], change[1], 1)
		if spoilt == good || faults(spoilt) == nil {
			t.Errorf("%q instead of %q is not found", change[1], change[0])
		}
	}

	if bad := m.disagreements(good); bad != nil {
		t.Errorf("the run that wrote it: %q", bad)
	}
	m.saw(t, rgwServer, "AssumeRole", renewal)
	m.saw(t, standIn, "AssumeRole", shape)
	if bad := m.disagreements(good); len(bad) != 2 {
		t.Errorf("a run that shows more: %q", bad)
	}
}
