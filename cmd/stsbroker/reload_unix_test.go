//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// reloading is a daemon whose configuration a test changes.
type reloading struct {
	*rig
	pid   int
	token string
}

func newReloading(t *testing.T, profiles int) reloading {
	t.Helper()
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.Close() })
	r := reloading{rig: newRig(t, shipped(t), run.URL, "", fake, profiles)}
	pid, stop := r.serve(t)
	t.Cleanup(stop)
	r.wait(t)
	r.pid, r.token = pid, r.rig.token(t, profiles)
	return r
}

// configure puts another document in place, whole at every moment. The daemon's port
// stays.
func (r reloading) configure(t *testing.T, document string) {
	t.Helper()
	path := filepath.Join(r.home, ".config/stsbroker/stsbroker.yaml")
	document = strings.ReplaceAll(document, "PORT", r.port)
	if err := os.WriteFile(path+".new", []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// dial is a connection of its own: a client makes one call.
func (r reloading) dial(t *testing.T) *control.Client {
	t.Helper()
	c, err := control.Dial(t.Context(), filepath.Join(r.home, ".local/state/stsbroker/run/control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (r reloading) status(t *testing.T) control.Status {
	t.Helper()
	st, err := r.dial(t).Status(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// until waits for what a file brings about.
func (r reloading) until(t *testing.T, what string, f func(control.Status) bool) control.Status {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		st := r.status(t)
		if f(st) {
			return st
		}
		if time.Now().After(end) {
			t.Fatalf("%s did not come about: %+v", what, st)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (r reloading) answer(t *testing.T, url, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// Requirement 24: 200 reloads at 1,000 requests/s, with profiles, doors and files that come
// and go, and bad files between: no request fails, and what is the same is minted once.
func TestReloadsUnderLoad(t *testing.T) {
	const reloads = 200
	r := newReloading(t, 3)
	c := &http.Client{}
	for i := range 3 {
		if status, ok, err := r.ask(c, r.token, fmt.Sprintf("p%d", i)); !ok {
			t.Fatal(status, err)
		}
	}
	c.CloseIdleConnections()
	before := r.fake.Total()
	other := freePort(t)
	base := "listen: { container: [\"127.0.0.1:PORT\"], metrics: 127.0.0.1:" + other + " }\n"
	good := []string{
		base + "profiles: { extra: { role: { arn: 'arn:aws:iam::123456789012:role/p0', source: dev } } }\n",
		"listen: { container: [\"127.0.0.1:PORT\", \"127.0.0.1:" + other + "\"] }\n",
		base + "token_files: { pod: { profiles: [p1] } }\naws_profiles: { exclude: [p2] }\n",
		base + "sts: { timeout: 3s }\n",
	}
	bad := []struct{ document, says string }{
		{base + "profiles: { broken: { role: { arn: nonsense, source: dev } } }\n", "stsbroker.yaml:2:"},
		{base + "profils: {}\n", "did you mean"},
		{"listen: { container: [\"127.0.0.1:PORT\", \"10.0.0.1:80\"] }\n", "stsbroker.yaml:1:"},
		{base + "profiles: { twice: { role: { arn: 'arn:aws:iam::123456789012:role/p0', source: nobody } } }\n", "nobody"},
		{base[:len(base)/2], "stsbroker.yaml"},
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	type result struct {
		took   []time.Duration
		failed int
	}
	loaded, enough := make(chan result, 1), make(chan struct{})
	go func() {
		var all result
		for {
			took, failed := r.load(r.token, "p0", 10, 1000, 500*time.Millisecond)
			all.took, all.failed = append(all.took, took...), all.failed+failed
			select {
			case <-enough:
				loaded <- all
				return
			default:
			}
		}
	}()
	began := time.Now()
	refused := 0
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for i := range reloads {
		<-pace.C
		if i%5 == 4 {
			b := bad[i/5%len(bad)]
			r.configure(t, b.document)
			_, err := r.dial(t).Reload(ctx)
			var e *control.Error
			if !errors.As(err, &e) || !strings.Contains(e.Message, b.says) || !strings.Contains(e.Message, "nothing was changed") {
				t.Fatalf("%s\nsaid %v, want %q", b.document, err, b.says)
			}
			refused++
			continue
		}
		r.configure(t, good[i%len(good)])
		if _, err := r.dial(t).Reload(ctx); err != nil {
			t.Fatalf("%s\n%v", good[i%len(good)], err)
		}
	}
	span := time.Since(began)
	close(enough)
	all := <-loaded
	slices.Sort(all.took)
	if len(all.took) == 0 {
		t.Fatal("nobody asked")
	}
	t.Logf("%d reloads (%d of them of bad files) in %v beside %d requests (%.0f a second): %d failed, p99 %v, slowest %v", reloads, refused, span.Round(time.Millisecond),
		len(all.took), float64(len(all.took))/span.Seconds(), all.failed, all.took[len(all.took)*99/100], all.took[len(all.took)-1])
	if all.failed != 0 {
		t.Errorf("%d requests failed", all.failed)
	}
	if n := r.fake.Total() - before; n != 0 { // p2 goes and comes, and nobody asks for it then
		t.Errorf("%d more calls of STS", n)
	}
}

// What each part of the configuration is after a reload, and after the one back.
func TestReloadChangesEverything(t *testing.T) {
	r := newReloading(t, 3)
	base := "http://127.0.0.1:" + r.port + "/credentials/"
	door := freePort(t)
	reload := func(document string) control.Reloaded {
		t.Helper()
		r.configure(t, document)
		out, err := r.dial(t).Reload(t.Context())
		if err != nil {
			t.Fatalf("%s\n%v", document, err)
		}
		return out
	}
	want := func(what string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	get := func(url, token string) int {
		t.Helper()
		status, _ := r.answer(t, url, token)
		return status
	}
	const plain = "listen: { container: [\"127.0.0.1:PORT\"] }\n"
	want("at first", get(base+"p0", r.token), 200)

	out := reload(plain + "profiles: { extra: { role: { arn: 'arn:aws:iam::123456789012:role/p0', source: dev, session_name: extra }, region: eu-west-1 } }\naws_profiles: { exclude: [p1] }\n")
	slices.Sort(out.Changed)
	want("changed", out.Changed, "[+extra -p1]")
	want("p1", get(base+"p1", r.token), 403)
	out = reload(plain + "profiles: { extra: { role: { arn: 'arn:aws:iam::123456789012:role/p0', source: dev, session_name: other }, region: eu-west-1 } }\n")
	slices.Sort(out.Changed)
	want("changed", out.Changed, "[+p1 extra]")
	want("p1 again", get(base+"p1", r.token), 200)

	reload(plain + "token_files: { pod: { profiles: [p0, p1] } }\n")
	file := r.status(t).TokenFiles[0].Path
	token, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want("the token in the file", get(base+"p1", string(token)), 200)
	reload(plain + "token_files: { pod: { profiles: [p0] } }\n")
	want("the token of before", get(base+"p1", string(token)), 401)
	if token, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	want("the narrower one", []int{get(base+"p0", string(token)), get(base+"p1", string(token))}, "[200 403]")
	reload(plain)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the token file: %v", err)
	}
	want("its token", get(base+"p0", string(token)), 401)

	second := "listen: { container: [\"127.0.0.1:PORT\", \"127.0.0.1:" + door + "\"] }\n"
	reload(second)
	want("the second address", get("http://127.0.0.1:"+door+"/credentials/p0", r.token), 200)
	want("as status has it", len(r.status(t).Container), 2)
	reload("listen: { container: [\"127.0.0.1:PORT\"], metrics: \"127.0.0.1:" + door + "\" }\n")
	want("metrics there", []int{get("http://127.0.0.1:"+door+"/metrics", ""), get("http://127.0.0.1:"+door+"/healthz", ""), get("http://127.0.0.1:"+door+"/readyz", "")}, "[200 200 200]")
	reload(plain)
	if c, err := net.Dial("tcp", "127.0.0.1:"+door); err == nil {
		_ = c.Close()
		t.Error("the second address is open still")
	}

	// An address that cannot be had: nothing changes, the profile beside it neither.
	taken, err := net.Listen("tcp", "127.0.0.1:"+door)
	if err != nil {
		t.Fatal(err)
	}
	r.configure(t, second+"aws_profiles: { exclude: [p0] }\n")
	_, err = r.dial(t).Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("said %v", err)
	}
	want("p0", get(base+"p0", r.token), 200)
	if st := r.status(t); !strings.Contains(st.Failed, "taken") || len(st.Container) != 1 {
		t.Errorf("%+v", st)
	}
	_ = taken.Close()
	reload(second)
	want("once it is free", r.status(t).Failed, "")
}

// SIGHUP and a changed file do what stsbroker reload does.
func TestReloadsByItself(t *testing.T) {
	r := newReloading(t, 2)
	has := func(name string) func(control.Status) bool {
		return func(st control.Status) bool {
			return slices.ContainsFunc(st.Profiles, func(p control.Profile) bool { return p.Name == name })
		}
	}
	aws := filepath.Join(r.home, ".aws/config")
	text, err := os.ReadFile(aws)
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string) {
		t.Helper()
		text = fmt.Appendf(text, "[profile %s]\nrole_arn = arn:aws:iam::123456789012:role/p0\nsource_profile = dev\n", name)
		if err := os.WriteFile(aws, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add("written")
	r.until(t, "a profile of the AWS files", has("written"))
	r.configure(t, "listen: { container: [\"127.0.0.1:PORT\"] }\nprofiles: { mine: { role: { arn: 'arn:aws:iam::123456789012:role/p0', source: dev } } }\n")
	r.until(t, "a profile of stsbroker.yaml", has("mine"))
	r.configure(t, "listen: [\n")
	st := r.until(t, "the word of a bad file", func(st control.Status) bool { return st.Failed != "" })
	if !has("mine")(st) || !strings.Contains(st.Failed, "stsbroker.yaml:") {
		t.Errorf("%+v", st)
	}
	r.configure(t, "listen: { container: [\"127.0.0.1:PORT\"] }\n")
	st = r.until(t, "the mended file", func(st control.Status) bool { return st.Failed == "" && !has("mine")(st) })
	if err := syscall.Kill(r.pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	r.until(t, "SIGHUP", func(now control.Status) bool { return now.Loaded.After(st.Loaded) })
}

// The audit log, whole: who was given what and who was refused, over each door; a bad file
// and a full folder are said before anything changes; with required, nothing is handed out that
// could not be written down.
func TestAuditLog(t *testing.T) {
	r := newReloading(t, 2)
	base := "http://127.0.0.1:" + r.port + "/credentials/"
	file := filepath.Join(r.home, "audit", "log.jsonl")
	document := "listen: { container: [\"127.0.0.1:PORT\"] }\naudit: { file: " + file + ", required: true }\n"
	r.configure(t, document)
	if _, err := r.dial(t).Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "stsbroker.yaml:2") || !strings.Contains(err.Error(), "audit") {
		t.Fatalf("a folder that is missing: %v", err)
	}
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := r.dial(t).Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if status, body := r.answer(t, base+"p0", r.token); status != 200 {
			t.Fatal(status, body)
		}
	}
	r.answer(t, base+"p0", "")
	r.answer(t, base+"nobody", r.token)
	if _, err := r.dial(t).Credentials(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file, file+".1"); err != nil { // as logrotate does, and its HUP
		t.Fatal(err)
	}
	if _, err := r.dial(t).Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	type line struct {
		Decision, Profile, Reason, Door, Call string
		KeyID                                 string `json:"access_key_id"`
		Role                                  string `json:"role_arn"`
		Token                                 json.RawMessage
	}
	read := func(file string) (all []line) {
		t.Helper()
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for text := range strings.Lines(string(data)) {
			var l line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			all = append(all, l)
		}
		if bytes.Contains(data, []byte(r.token)) {
			t.Error("a token is in the log")
		}
		return all
	}
	count := func(all []line, is func(line) bool) (n int) {
		for _, l := range all {
			if is(l) {
				n++
			}
		}
		return n
	}
	before := read(file + ".1")
	for what, is := range map[string]func(line) bool{
		"p0 once, however often": func(l line) bool {
			return l.Decision == "allowed" && l.Profile == "p0" && strings.HasPrefix(l.KeyID, "ASIA") && strings.HasSuffix(l.Role, "role/p0") && l.Door == broker.DoorContainer
		},
		"nobody without a token": func(l line) bool { return l.Decision == "denied" && l.Profile == "" && l.Door == broker.DoorContainer },
		"no profile of no name":  func(l line) bool { return l.Decision == "denied" && l.Profile == "nobody" },
		"p1 over the socket":     func(l line) bool { return l.Decision == "allowed" && l.Profile == "p1" && l.Door == broker.DoorControl },
	} {
		if n := count(before, is); n != 1 {
			t.Errorf("%s: %d lines of %+v", what, n, before)
		}
	}
	r.until(t, "the line of the reload, in the new file", func(control.Status) bool {
		return count(read(file), func(l line) bool { return l.Call == "reload" && l.Decision == "allowed" }) == 1
	})

	// Nothing can be written: what was told already goes on, what was not is refused.
	if os.Getuid() == 0 {
		t.Log("not run: a folder that cannot be written, which root can; broker/observe has a full disk")
		return
	}
	if err := errors.Join(os.Remove(file), os.Chmod(filepath.Dir(file), 0o500)); err != nil {
		t.Fatal(err)
	}
	if status, body := r.answer(t, base+"p1", r.token); status != 503 || !strings.Contains(body, "audit") {
		t.Error(status, body)
	}
}

// mount plays what Kubernetes does with a volume: files are links over ..data, and one
// rename swaps all of them.
func mount(t *testing.T, folder, generation string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(folder, ".."+generation, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(folder, name)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	next := filepath.Join(folder, "..data_tmp")
	if err := errors.Join(os.Symlink(".."+generation, next), os.Rename(next, filepath.Join(folder, "..data"))); err != nil {
		t.Fatal(err)
	}
}

// A token that Kubernetes renews is noticed, and so is a ConfigMap: a profile whose mint
// failed of the old token is minted of the new one without anybody asking.
func TestKubernetesSwaps(t *testing.T) {
	r := newReloading(t, 1)
	role := "arn:aws:iam::123456789012:role/ci"
	r.fake.AddRole(stsfake.Role{ARN: role, Subjects: []string{"pod"}})
	tokens := filepath.Join(r.home, "token")
	mount(t, tokens, "2026_01", map[string]string{"web": r.fake.IdentityToken("pod", -time.Hour)})
	document := fmt.Sprintf("listen: { container: [\"127.0.0.1:%s\"] }\nprofiles: { ci: { web_identity: { arn: %q, token_file: %q }, region: eu-central-1, prefetch: true } }\n", r.port, role, filepath.Join(tokens, "web"))
	folder := filepath.Join(r.home, ".config/stsbroker")
	if err := os.Remove(filepath.Join(folder, "stsbroker.yaml")); err != nil {
		t.Fatal(err)
	}
	state := func(want string) func(control.Status) bool {
		return func(st control.Status) bool {
			return slices.ContainsFunc(st.Profiles, func(p control.Profile) bool { return p.Name == "ci" && p.State == want })
		}
	}
	mount(t, folder, "2026_01", map[string]string{"stsbroker.yaml": document})
	// Several failures on, the next try of its own accord is some seconds away.
	var next time.Time
	r.until(t, "some failures, of the token that has expired", func(st control.Status) bool {
		for _, p := range st.Profiles {
			if p.Name == "ci" && p.Failures >= 3 && p.RenewIn > 5 {
				next = time.Now().Add(time.Duration(p.RenewIn * float64(time.Second)))
				return state("error")(st)
			}
		}
		return false
	})
	mount(t, tokens, "2026_02", map[string]string{"web": r.fake.IdentityToken("pod", time.Hour)})
	r.until(t, "a mint of the new token", state("fresh"))
	if early := time.Until(next); early < time.Second {
		t.Errorf("minted when it would have been anyway (%v before)", early)
	}
	mount(t, folder, "2026_02", map[string]string{"stsbroker.yaml": strings.ReplaceAll(document, " ci: ", " other: ")})
	r.until(t, "the second mount", func(st control.Status) bool { return !state("fresh")(st) })
}
