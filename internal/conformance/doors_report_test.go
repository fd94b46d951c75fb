package conformance

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// doorsFile is what make conformance-all writes.
const doorsFile = "../../docs/conformance.md"

// The columns.
const (
	uriToken     = "URI, token"
	uriTokenFile = "URI, token file"
	ecs          = "ECS"
	eks          = "EKS"
	imdsVariable = "IMDS, variable"
	imdsAlone    = "IMDS"
	byCommand    = "process"
)

var doors = []struct{ name, means string }{
	{uriToken, "`stsbroker env PROFILE`: `AWS_CONTAINER_CREDENTIALS_FULL_URI` at 127.0.0.1 and `AWS_CONTAINER_AUTHORIZATION_TOKEN`"},
	{uriTokenFile, "`stsbroker env PROFILE --token-file`: the same with `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`"},
	{ecs, "`stsbroker env PROFILE --door ecs`: `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`, which is at 169.254.170.2 port 80; the listener has the profile under `without_token`, for clients that send no token there"},
	{eks, "`stsbroker env PROFILE --door eks`: `AWS_CONTAINER_CREDENTIALS_FULL_URI` at 169.254.170.23 and a token file that the broker writes anew"},
	{imdsVariable, "`stsbroker env PROFILE --door imds`: `AWS_EC2_METADATA_SERVICE_ENDPOINT` at 127.0.0.1, version 2"},
	{imdsAlone, "no variable at all: 169.254.169.254 port 80, version 2"},
	{byCommand, "`stsbroker env PROFILE --door process`: `credential_process` in an AWS config file, and `AWS_SDK_LOAD_CONFIG=1` for old SDKs"},
}

// core are the clients of make conformance; the rest is for make conformance-all.
var core = []string{"boto3", "AWS CLI", "@aws-sdk/client-s3", "Go SDK s3"}

// enough clients have to run for the document to be worth its name.
const enough = 12

// cannot is a door that a client has no way through: known beforehand, and held
// to be so, in order that a new version of the client shows.
type cannot struct {
	client, door string
	before       string // the first version that can; "" for none so far
	why          string // goes on from the client and its version
}

var cannots = []cannot{
	// The versions are those that AWS names for EKS Pod Identity.
	{"AWS CLI", uriTokenFile, "2.15.0", noTokenFile},
	{"AWS CLI", eks, "2.15.0", "takes plain http from 127.0.0.1, localhost and 169.254.170.2 alone"},
	{"AWS CLI", imdsVariable, "2.29.0", "puts no slash between the endpoint and the path"}, // aws/aws-cli#8967

	{"Ruby SDK", uriToken, "1.140.0", noFullURI},
	{"Ruby SDK", uriTokenFile, "1.140.0", noFullURI},
	{"Ruby SDK", eks, "1.140.0", noFullURI},
	{"Ruby SDK", imdsVariable, "", "asks port 80 of the endpoint, whatever port it names"},

	{"minio-go", imdsVariable, "", noEndpoint},
	{"restic", imdsVariable, "", noEndpoint},
	{"restic", byCommand, "", "looks for `credential_process` in `~/.aws/credentials` alone"},

	{"s3fs", uriToken, "", noFullURI},
	{"s3fs", uriTokenFile, "", noFullURI},
	{"s3fs", eks, "", noFullURI},
	{"s3fs", imdsVariable, "", noEndpoint},
	{"s3fs", byCommand, "", "runs no `credential_process`"},

	{"s5cmd", uriTokenFile, "", noTokenFile},
	{"s5cmd", eks, "", "takes plain http from loopback alone"},
}

const (
	noTokenFile = "does not read `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`"
	noFullURI   = "does not read `AWS_CONTAINER_CREDENTIALS_FULL_URI`"
	noEndpoint  = "does not read `AWS_EC2_METADATA_SERVICE_ENDPOINT`"
)

// reason is why the client at that version is expected to fail at the door, or "".
func (c cannot) reason(client, version, door string) string {
	if c.client != client || c.door != door || c.before != "" && !older(version, c.before) {
		return ""
	}
	return strings.TrimSpace(client+" "+version) + " " + c.why
}

// expectedNo is why a client is expected to fail at a door, or "".
func expectedNo(client, version, door string) string {
	for _, c := range cannots {
		if why := c.reason(client, version, door); why != "" {
			return why
		}
	}
	return ""
}

// older compares versions such as v1.2.3 by their numbers.
func older(a, b string) bool {
	numbers := func(v string) (n []int) {
		for part := range strings.SplitSeq(strings.TrimPrefix(v, "v"), ".") {
			i, _ := strconv.Atoi(part) // what is no number counts as 0
			n = append(n, i)
		}
		return n
	}
	return slices.Compare(numbers(a), numbers(b)) < 0
}

// The doors whose errors are looked at, one of each kind.
var errorDoors = []string{uriToken, imdsVariable, byCommand}

// silent are the clients that keep to themselves what a door tells them.
var silent = map[[2]string]bool{
	{"boto3", imdsVariable}:                   true,
	{"AWS CLI", imdsVariable}:                 true,
	{"AWS CLI v1", imdsVariable}:              true,
	{"@aws-sdk/client-s3", uriToken}:          true,
	{"@aws-sdk/client-s3", imdsVariable}:      true,
	{"@aws-sdk/client-s3", byCommand}:         true,
	{"aws-sdk (JavaScript v2)", uriToken}:     true,
	{"aws-sdk (JavaScript v2)", imdsVariable}: true,
	{"aws-sdk (JavaScript v2)", byCommand}:    true,
	{"Go SDK v1", uriToken}:                   true,
	{"Go SDK v1", imdsVariable}:               true,
	{"s5cmd", uriToken}:                       true,
	{"s5cmd", imdsVariable}:                   true,
	{"Java SDK v2", uriToken}:                 true,
	{"Java SDK v2", imdsVariable}:             true,
	{"Java SDK v2", byCommand}:                true,
	{"Rust SDK", uriToken}:                    true,
	{"minio-go", uriToken}:                    true,
	{"minio-go", byCommand}:                   true,
	{"restic", uriToken}:                      true,
}

// saying is what a client printed where there were no credentials.
type saying struct{ login, denied string }

// doorTable is what a run showed of clients and doors. Safe for concurrent use.
type doorTable struct {
	mu       sync.Mutex
	clients  []string // in the order of the rows
	versions map[string]string
	cells    map[[2]string]string // by client and door: "yes", "no: REASON", "not run: REASON"
	sayings  map[[2]string]saying // by client and door
	messages saying               // of the broker itself
}

// ourWords stands in the document for the broker's message.
const ourWords = "<our words>"

func newDoorTable() *doorTable {
	return &doorTable{versions: map[string]string{}, cells: map[[2]string]string{}, sayings: map[[2]string]saying{}}
}

// row adds a client; the rows stay in that order.
func (d *doorTable) row(client, version string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients = append(d.clients, client)
	d.versions[client] = oneCell(version)
}

// set notes a cell. A "no" stays: of several tries all have to succeed.
func (d *doorTable) set(client, door, cell string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := [2]string{client, door}
	if !strings.HasPrefix(d.cells[at], "no") {
		d.cells[at] = oneCell(cell)
	}
}

// say notes what a client printed.
func (d *doorTable) say(client, door string, s saying) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sayings[[2]string{client, door}] = s
}

// broker notes the messages themselves.
func (d *doorTable) broker(s saying) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.messages = s
}

func (d *doorTable) cell(client, door string) string {
	return cmp.Or(d.cells[[2]string{client, door}], "not run: this run stopped before it")
}

// heard is how the document says whether our words come through.
func heard(client, door string) string {
	if silent[[2]string{client, door}] {
		return "no"
	}
	return "yes"
}

// String is the document.
func (d *doorTable) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b strings.Builder
	line := func(cells ...string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	rule := func(n int) { b.WriteString("|" + strings.Repeat("---|", n) + "\n") }
	var notes []string
	noted := func(cell string) string {
		word, why, ok := strings.Cut(cell, ": ")
		if !ok {
			return cell
		}
		if word == "not run" {
			why = cell
		}
		if !slices.Contains(notes, why) {
			notes = append(notes, why)
		}
		return fmt.Sprintf("%s (%d)", word, slices.Index(notes, why)+1)
	}

	b.WriteString("# Which client comes through which door\n\n" +
		"Written by `make conformance-all`, from what that run saw; not edited by hand. `make conformance` holds the clients that it runs against it.\n\n" +
		"Each client lists a bucket of its own at MinIO with credentials that only this door gives. Home folders have `[default]` keys in `~/.aws` that open nothing,\n" +
		"except where there is no variable at all: there those keys come first, as they should. A \"no\" is expected, and a client that suddenly can fails the run.\n\n")
	header := []string{"client", "version"}
	for _, door := range doors {
		header = append(header, door.name)
	}
	line(header...)
	rule(len(header))
	for _, c := range d.clients {
		cells := []string{c, cmp.Or(d.versions[c], "-")}
		for _, door := range doors {
			cells = append(cells, noted(d.cell(c, door.name)))
		}
		line(cells...)
	}
	b.WriteString("\n")
	for i, n := range notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, n)
	}
	b.WriteString("\n| door | how a program is led to it |\n|---|---|\n")
	for _, door := range doors {
		line(door.name, door.means)
	}
	b.WriteString("\n## What a client prints when there are no credentials\n\n" +
		"The end of what it prints, without paths, ports, times and ids: once where the profile waits for a code of an MFA device (`stsbroker login` gives it),\n" +
		"and once where STS denies access. \"Our words\" says whether the broker's message is in there, which tells what to do. It is left out there:\n`" + ourWords + "` is one of\n\n")
	fmt.Fprintf(&b, "- %s\n- %s\n\n", quoted(d.messages.login), quoted(d.messages.denied))
	line("client", "door", "our words", "a login is needed", "access is denied")
	rule(5)
	for _, c := range d.clients {
		for _, door := range errorDoors {
			if s, ok := d.sayings[[2]string{c, door}]; ok {
				line(c, door, heard(c, door), quoted(s.login), quoted(s.denied))
			}
		}
	}
	return b.String()
}

// quoted is a text of somebody else's as a cell.
func quoted(s string) string {
	s = oneCell(strings.ReplaceAll(s, "`", "'"))
	if s == "" {
		return "nothing"
	}
	return "`" + s + "`"
}

var noteLine = regexp.MustCompile(`(?m)^(\d+)\. (.+)$`)

// readDoors reads a document back: rows of the first table with the notes put in
// for their numbers, and of the third.
func readDoors(document string) (cells, sayings [][]string) {
	all := tables(document)
	if len(all) != 3 {
		return nil, nil
	}
	notes := map[string]string{}
	for _, m := range noteLine.FindAllStringSubmatch(document, -1) {
		notes[m[1]] = m[2]
	}
	for _, row := range all[0][1:] {
		row = slices.Clone(row)
		for i, cell := range row {
			word, number, ok := strings.Cut(strings.TrimSuffix(cell, ")"), " (")
			if !ok || i < 2 {
				continue
			}
			row[i] = word + ": " + strings.TrimPrefix(notes[number], "not run: ")
		}
		cells = append(cells, row)
	}
	return cells, all[2][1:]
}

// disagreements says where the document differs from what this run saw, for
// clients of the same version.
func (d *doorTable) disagreements(document string) (bad []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	cells, sayings := readDoors(document)
	if cells == nil {
		return []string{"it is not of this code"}
	}
	for _, row := range cells {
		client := row[0]
		if version, ran := d.versions[client]; !ran || len(row) != 2+len(doors) || version != row[1] {
			continue
		}
		for i, door := range doors {
			now, then := d.cell(client, door.name), row[2+i]
			if now != then && !strings.HasPrefix(now, "not run: ") && !strings.HasPrefix(then, "not run: ") {
				bad = append(bad, fmt.Sprintf("%s through %s: it says %q, this run says %q", client, door.name, then, now))
			}
		}
	}
	for _, client := range core {
		if _, ran := d.versions[client]; ran && !slices.ContainsFunc(cells, func(row []string) bool { return row[0] == client }) {
			bad = append(bad, "no row "+client)
		}
	}
	for _, row := range sayings {
		if now := heard(row[0], row[1]); d.versions[row[0]] != "" && row[2] != now {
			bad = append(bad, fmt.Sprintf("our words from %s through %s: it says %q, this run says %q", row[0], row[1], row[2], now))
		}
	}
	return bad
}

// doorFaults says where the document is not one that this code writes.
func doorFaults(document string) (bad []string) {
	fault := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	got, want := tables(document), tables(newDoorTable().String())
	if len(got) != len(want) {
		return []string{fmt.Sprintf("%d tables, want %d", len(got), len(want))}
	}
	for i, table := range want { // headers, and the texts of this code
		for j, row := range table {
			if j >= len(got[i]) || !slices.Equal(got[i][j], row) {
				fault("table %d has no row %q at its place", i+1, row)
			}
		}
	}
	if bad != nil {
		return bad
	}
	cells, sayings := readDoors(document)
	var ran []string
	for _, row := range cells {
		if len(row) != 2+len(doors) || slices.Contains(row, "") {
			fault("row %q has an empty cell, or too few", row[0])
			continue
		}
		client, version := row[0], row[1]
		for i, door := range doors {
			expected := expectedNo(client, version, door.name)
			switch cell := row[2+i]; {
			case cell == "yes" && expected == "", cell == "no: "+expected && expected != "":
				if !slices.Contains(ran, client) {
					ran = append(ran, client)
				}
			case strings.HasPrefix(cell, "not run: ") && cell != "not run: ":
			default:
				fault("%s through %s: %q is nothing that a run writes", client, door.name, cell)
			}
		}
	}
	if len(ran) < enough {
		fault("%d clients ran, want %d", len(ran), enough)
	}
	for _, client := range core {
		if !slices.Contains(ran, client) {
			fault("%s did not run", client)
		}
	}
	for _, client := range ran {
		for _, door := range errorDoors {
			i := slices.IndexFunc(sayings, func(row []string) bool { return len(row) == 5 && row[0] == client && row[1] == door })
			switch {
			case i < 0 && expectedNo(client, versionIn(cells, client), door) == "":
				fault("nothing tells what %s prints for errors of %s", client, door)
			case i < 0:
			case sayings[i][2] != heard(client, door), sayings[i][3] == "", sayings[i][4] == "":
				fault("%q is nothing that a run writes", sayings[i])
			case strings.Contains(sayings[i][3], ourWords) != (sayings[i][2] == "yes"), strings.Contains(sayings[i][4], ourWords) != (sayings[i][2] == "yes"):
				fault("%q: our words are not where it says that they are", sayings[i])
			}
		}
	}
	for _, words := range []string{"run stsbroker login ", "AccessDenied"} {
		if _, list, _ := strings.Cut(document, "is one of\n"); !strings.Contains(list[:max(0, strings.Index(list, "|"))], words) {
			fault("there is no message of the broker's with %q", words)
		}
	}
	for _, private := range []string{"/root/", "/home/", "/tmp/", "/usr/", "/work/"} {
		if strings.Contains(document, private) {
			fault("there is a path in it that begins with %s", private)
		}
	}
	return bad
}

func versionIn(rows [][]string, client string) string {
	i := slices.IndexFunc(rows, func(row []string) bool { return row[0] == client })
	return rows[i][1]
}

func TestDoorsDocumentIsOfThisCode(t *testing.T) {
	document, err := os.ReadFile(doorsFile)
	if err != nil {
		t.Fatalf("%v; make conformance-all writes it", err)
	}
	for _, bad := range doorFaults(string(document)) {
		t.Errorf("docs/conformance.md: %s; run make conformance-all", bad)
	}
}

// The check finds what it is there for.
func TestDoorsFaultsAreFound(t *testing.T) {
	d := newDoorTable()
	for i := range enough + 1 {
		client, version := fmt.Sprintf("client %d", i), "1.0"
		if i < len(core) {
			client, version = core[i], "2.9.19"
		}
		d.row(client, version)
		for _, door := range doors {
			cell := "yes"
			if why := expectedNo(client, version, door.name); why != "" {
				cell = "no: " + why
			}
			if i == enough {
				cell = "not run: no | network"
			}
			d.set(client, door.name, cell)
		}
		for _, door := range errorDoors {
			if i < enough {
				words := ourWords
				if heard(client, door) == "no" {
					words = "sorry"
				}
				d.say(client, door, saying{"first |\nsecond: " + words, "`third` " + words})
			}
		}
	}
	d.broker(saying{"run stsbroker login you", "AccessDenied"})
	good := d.String()
	if bad := doorFaults(good); bad != nil {
		t.Fatalf("a document of this code: %q\n%s", bad, good)
	}
	if bad := d.disagreements(good); bad != nil {
		t.Errorf("the run that wrote it: %q", bad)
	}
	for _, change := range [][2]string{
		{"| client | version |", "| version | client |"},
		{doors[1].means, "something"},
		{"| yes |", "| no |"},
		{"| yes |", "| |"},
		{"| yes |", "| no (1) |"},
		{"| no (1) |", "| yes |"},
		{"| no (1) |", "| no (9) |"},
		{"| no (1) |", "| no (2) |"},
		{"\n1. ", "\n1. Something else: "},
		{"| boto3 | 2.9.19 |", "| boto4 | 2.9.19 |"},
		{"| client 8 | 1.0 | yes | yes | yes | yes | yes | yes | yes |\n", ""},
		{"| boto3 | " + byCommand + " |", "| boto3 | something |"},
		{"first / second", "/root/first"},
		{"`first / second: " + ourWords + "`", ""},
		{"first / second: " + ourWords, "first / second"},
		{"first / second: sorry", "first / second: " + ourWords},
		{"run stsbroker login", "do something"},
	} {
		spoilt := strings.Replace(good, change[0], change[1], 1)
		if spoilt == good || doorFaults(spoilt) == nil {
			t.Errorf("%q instead of %q is not found", change[1], change[0])
		}
	}
	if bad := d.disagreements(strings.Replace(good, "| yes |", "| no (1) |", 1)); len(bad) != 1 {
		t.Errorf("a document that says no where this run says yes: %q", bad)
	}
}
