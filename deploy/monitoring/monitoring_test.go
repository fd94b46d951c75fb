// Package monitoring holds the alert rules and the dashboard against the metrics that
// the broker has. There is no program in it.
package monitoring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/observe"
)

// series is what was scraped: by metric, each label's values.
type series map[string]map[string][]string

var sample = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? \S+$`)

var label = regexp.MustCompile(`([a-zA-Z_]+)="([^"]*)"`)

// scraped returns the metrics of a broker to which everything has happened, as
// Prometheus stores them: job and instance are added, and up.
func scraped(t *testing.T) series {
	t.Helper()
	states := map[broker.State]int{}
	for _, s := range []broker.State{
		broker.StateUnservable, broker.StateIdle, broker.StateMinting, broker.StateFresh, broker.StateRenewing,
		broker.StateFailing, broker.StateLapsed, broker.StateError, broker.StateLogin,
	} {
		states[s] = 1
	}
	o := observe.New(zap.NewNop(), func() broker.Stats {
		return broker.Stats{AnyHeld: true, SmallestLeft: time.Hour, Budget: map[string]float64{"1/eu-west-1": 1}, States: states}
	})
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	a, err := observe.OpenAudit(observe.AuditOptions{File: filepath.Join(folder, "audit.log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	o.Watch(a)
	o.Build("1.2.3")
	o.Reloaded(errors.New("no"))
	o.Region("eu-west-1", true, "")
	e := broker.Event{Action: "AssumeRole", Region: "eu-west-1"}
	for e.Kind = range broker.EventKind(16) {
		o.Observe(e)
	}
	for k := range broker.Kind(16) {
		e.Kind, e.Err = broker.EventMintFailed, &broker.Error{Kind: k}
		o.Observe(e)
	}
	for _, status := range []int{200, 401, 403, 503} {
		o.Request(broker.DoorContainer, status)
	}
	w := httptest.NewRecorder()
	o.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))

	have := series{}
	add := func(metric, labels string) {
		if have[metric] == nil {
			have[metric] = map[string][]string{"job": {"stsbroker"}, "instance": {"host:9171"}}
		}
		for _, l := range label.FindAllStringSubmatch(labels, -1) {
			if !slices.Contains(have[metric][l[1]], l[2]) {
				have[metric][l[1]] = append(have[metric][l[1]], l[2])
			}
		}
	}
	add("up", "")
	for _, m := range sample.FindAllStringSubmatch(w.Body.String(), -1) {
		add(m[1], m[2])
	}
	return have
}

var (
	selector  = regexp.MustCompile(`\b(stsbroker_[a-z_]+|up)\b(?:\{([^}]*)\})?`)
	matcher   = regexp.MustCompile(`([a-zA-Z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	grouping  = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	template  = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}`)
	variable  = regexp.MustCompile(`^label_values\((.*), ([a-z_]+)\)$`)
	dashboard = "dashboard.json"
	rules     = "alerts.yaml"
)

// check returns what is wrong with a query, and with the labels that a text beside it
// uses.
func (have series) check(query, text string) (wrong []string) {
	found := selector.FindAllStringSubmatch(query, -1)
	if len(found) == 0 {
		return []string{"no metric of ours in it"}
	}
	all := map[string]bool{}
	for _, s := range found {
		labels, ok := have[s[1]]
		if !ok {
			wrong = append(wrong, "there is no metric "+s[1])
			continue
		}
		for name := range labels {
			all[name] = true
		}
		for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
			values, ok := labels[m[1]]
			if !ok {
				wrong = append(wrong, s[1]+" has no label "+m[1])
				continue
			}
			for value := range strings.SplitSeq(m[3], "|") {
				if !strings.HasPrefix(value, "$") && !slices.Contains(values, value) {
					wrong = append(wrong, fmt.Sprintf("%s of %s is never %q", m[1], s[1], value))
				}
			}
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(query, -1) {
		for name := range strings.SplitSeq(g[1], ",") {
			if name = strings.TrimSpace(name); name != "" && !all[name] {
				wrong = append(wrong, "nothing in it has the label "+name)
			}
		}
	}
	for _, m := range template.FindAllStringSubmatch(text, -1) {
		if !all[m[1]] {
			wrong = append(wrong, "its text uses the label "+m[1]+", which nothing in it has")
		}
	}
	return wrong
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAlertsAreAboutMetricsThatExist(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(bytes.NewReader(read(t, rules)))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	have, tests := scraped(t), string(read(t, "alerts_test.yaml"))
	n := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			n++
			for _, wrong := range have.check(r.Expr, r.Annotations["summary"]+r.Annotations["description"]) {
				t.Errorf("%s: %s", r.Alert, wrong)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
				t.Errorf("%s: no summary, description or severity", r.Alert)
			}
			// Each is provoked: its name stands with alerts that are expected.
			if !regexp.MustCompile(`alertname: ` + r.Alert + `\n\s+exp_alerts:(\n\s+- | \[\*)`).MatchString(tests) {
				t.Errorf("%s: no test provokes it", r.Alert)
			}
		}
	}
	if n == 0 {
		t.Error("no rules")
	}
}

func TestDashboardShowsMetricsThatExist(t *testing.T) {
	type source struct{ Type, UID string }
	var file struct {
		ID            *int
		UID, Title    string
		SchemaVersion int
		Templating    struct {
			List []struct {
				Name, Type, Definition string
				Datasource             *source
			}
		}
		Panels []struct {
			ID          int
			Type, Title string
			Datasource  *source
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct {
				RefID, Expr, LegendFormat string
				Datasource                *source
			}
		}
	}
	if err := json.Unmarshal(read(t, dashboard), &file); err != nil {
		t.Fatal(err)
	}
	if file.ID != nil || file.UID == "" || file.Title == "" || file.SchemaVersion < 42 {
		t.Errorf("id %v, uid %q, title %q, schema %d", file.ID, file.UID, file.Title, file.SchemaVersion)
	}
	ours := source{"prometheus", "${datasource}"}
	have := scraped(t)
	vars := map[string]bool{"__rate_interval": true}
	for _, v := range file.Templating.List {
		vars[v.Name] = true
		if v.Type == "datasource" {
			continue
		}
		if v.Datasource == nil || *v.Datasource != ours {
			t.Errorf("$%s: data source %v", v.Name, v.Datasource)
		}
		m := variable.FindStringSubmatch(v.Definition)
		if m == nil {
			t.Errorf("$%s: %q", v.Name, v.Definition)
			continue
		}
		for _, wrong := range have.check(m[1], "{{"+m[2]+"}}") {
			t.Errorf("$%s: %s", v.Name, wrong)
		}
	}
	used := regexp.MustCompile(`\$\{?([a-z_]+)`)
	ids, shown := map[int]bool{}, map[string]bool{}
	for i, p := range file.Panels {
		if ids[p.ID] || p.GridPos.W <= 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s: id %d twice, or outside: %v", p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		for _, q := range file.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s covers %s", p.Title, q.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource == nil || *p.Datasource != ours || len(p.Targets) == 0 {
			t.Errorf("%s: data source %v, %d queries", p.Title, p.Datasource, len(p.Targets))
		}
		for _, q := range p.Targets {
			if q.Datasource == nil || *q.Datasource != ours {
				t.Errorf("%s %s: data source %v", p.Title, q.RefID, q.Datasource)
			}
			for _, wrong := range have.check(q.Expr, q.LegendFormat) {
				t.Errorf("%s %s: %s", p.Title, q.RefID, wrong)
			}
			for _, v := range used.FindAllStringSubmatch(q.Expr, -1) {
				if !vars[v[1]] {
					t.Errorf("%s %s: no variable $%s", p.Title, q.RefID, v[1])
				}
			}
			for _, s := range selector.FindAllStringSubmatch(q.Expr, -1) {
				shown[strings.TrimSuffix(s[1], "_bucket")] = true
			}
		}
	}
	for metric := range have {
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			metric = strings.TrimSuffix(metric, part)
		}
		if !shown[metric] {
			t.Errorf("no panel shows %s", metric)
		}
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	have := scraped(t)
	for query, want := range map[string]int{
		`sum by (job, instance) (stsbroker_profiles{state=~"failing|login-needed", job=~"$job"}) > 0`: 0,
		`up{job="stsbroker"} == 0`:                                     0,
		`up{job="other"}`:                                              1,
		`stsbroker_profile`:                                            1,
		`stsbroker_profiles{stat="failing"}`:                           1,
		`stsbroker_profiles{state=~"failing|gone"}`:                    1,
		`stsbroker_waiters and on (region) stsbroker_waiters`:          1,
		`rate(stsbroker_mint_seconds_bucket{le="0.8"}[5m])`:            0,
		`rate(stsbroker_mint_seconds{action="AssumeRole"}[5m])`:        1,
		`sum by (le) (stsbroker_mints_total{result="login-needed"})`:   2,
		`stsbroker_requests_total{door="container",status=~"200|403"}`: 0,
		`vector(1)`: 1,
	} {
		if got := have.check(query, ""); len(got) != want {
			t.Errorf("%s: %q, want %d", query, got, want)
		}
	}
	if got := have.check("stsbroker_budget_calls", "{{region}} {{ $labels.instance }} {{ $labels.door }}"); len(got) != 1 {
		t.Errorf("a label that is not there, in a text: %q", got)
	}
}

// TestEveryMetricIsDocumented holds the table of the documentation to the same list.
func TestEveryMetricIsDocumented(t *testing.T) {
	doc := string(read(t, "../../docs/observability.md"))
	have := scraped(t)
	for metric := range have {
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			metric = strings.TrimSuffix(metric, part)
		}
		if metric != "up" && !strings.Contains(doc, "| `"+metric+"` |") {
			t.Errorf("docs/observability.md does not list %s", metric)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(stsbroker_[a-z_]+)` \\|").FindAllStringSubmatch(doc, -1) {
		if have[m[1]] == nil && have[m[1]+"_bucket"] == nil {
			t.Errorf("docs/observability.md lists %s, which does not exist", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`(Stsbroker[A-Za-z]+)`").FindAllStringSubmatch(doc, -1) {
		if !strings.Contains(string(read(t, rules)), "alert: "+m[1]+"\n") {
			t.Errorf("docs/observability.md names the alert %s, which does not exist", m[1])
		}
	}
}
