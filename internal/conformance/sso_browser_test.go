//go:build conformance && linux

package conformance

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/login"
	"github.com/stsbroker/stsbroker/internal/ssofake"
)

func sha1Hex(s string) string {
	sum := sha1.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// chromium finds Debian's browser and the program that drives it, or installs them. The
// path is the driver's.
func (in installer) chromium() piece {
	programs := []string{"chromium", "chromedriver"}
	var aptErr error
	if missing(programs) != nil {
		aptErr = in.apt([]string{"chromium", "chromium-driver"})
	}
	if err := missing(programs); err != nil {
		return piece{err: because(err, aptErr)}
	}
	driver, err := exec.LookPath("chromedriver")
	if err != nil {
		return piece{err: err}
	}
	out, err := exec.CommandContext(in.t.Context(), driver, "--version").Output()
	return piece{driver, firstMatch(`ChromeDriver (\S+)`, out), err}
}

// tab is a browser with one tab, driven by the WebDriver protocol of the W3C.
type tab struct{ session string }

func newTab(t *testing.T, driver piece) tab {
	t.Helper()
	need(t, driver)
	home := tempDir(t)
	port := freePorts(t, 1)[0]
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	p := start(t, home, cleanEnv(home), "chromedriver", driver.path, fmt.Sprintf("--port=%d", port))
	p.await(t, 30*time.Second, answers(base+"/status"))
	arguments := []string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server", "--user-data-dir=" + filepath.Join(home, "profile")}
	var made struct{ SessionID string }
	b := tab{base + "/session"}
	b.do(t, http.MethodPost, "", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{"goog:chromeOptions": map[string]any{"args": arguments}}}}, &made)
	b.session += "/" + made.SessionID
	t.Cleanup(func() {
		r, err := http.NewRequest(http.MethodDelete, b.session, nil)
		if err != nil {
			return
		}
		if resp, err := loopback.Do(r); err == nil {
			_ = resp.Body.Close()
		}
	})
	return b
}

// do makes a call of the driver.
func (b tab) do(t *testing.T, method, path string, in, out any) {
	t.Helper()
	var body io.Reader
	if in != nil {
		sent, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(sent)
	}
	r, err := http.NewRequest(method, b.session+path, body)
	if err != nil {
		t.Fatal(err)
	}
	client := *loopback
	client.Timeout = time.Minute // a cold browser on a slow machine
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct{ Value json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %d %v %s", method, path, resp.StatusCode, err, got.Value)
	}
	if out != nil {
		if err := json.Unmarshal(got.Value, out); err != nil {
			t.Fatal(err)
		}
	}
}

func (b tab) open(t *testing.T, at string) {
	t.Helper()
	b.do(t, http.MethodPost, "/url", map[string]string{"url": at}, nil)
}

// click is a real one, on what the selector finds.
func (b tab) click(t *testing.T, selector string) {
	t.Helper()
	var found map[string]string
	if text, at := b.text(t); strings.HasPrefix(at, "chrome-error:") {
		t.Fatalf("the browser shows no page: %s", text)
	}
	b.do(t, http.MethodPost, "/element", map[string]string{"using": "css selector", "value": selector}, &found)
	for _, id := range found {
		b.do(t, http.MethodPost, "/element/"+id+"/click", map[string]string{}, nil)
	}
}

// text is what the page shows, and where it is.
func (b tab) text(t *testing.T) (text, at string) {
	t.Helper()
	b.do(t, http.MethodPost, "/execute/sync", map[string]any{"script": "return document.body ? document.body.innerText : ''", "args": []any{}}, &text)
	b.do(t, http.MethodGet, "/url", nil, &at)
	return text, at
}

// shows waits until the page says so: a click returns before the next page is there.
func (b tab) shows(t *testing.T, want string) (text, at string) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if text, at = b.text(t); strings.Contains(text, want) || time.Now().After(until) {
			return text, at
		}
	}
}

// TestSSOBrowser signs in with a real browser, by both ways, and comes back from what
// a person may do in it.
func TestSSOBrowser(t *testing.T) {
	in := newInstaller(t)
	browser := newTab(t, in.chromium())
	center := newSSO(t, ssofake.Lives{Interval: time.Second})
	mint := func(m *login.Manager) error {
		_, err := m.Role(ssoSession(), account, ssoRole).Mint(t.Context(), broker.MintInput{})
		return err
	}

	t.Run("authorization code", func(t *testing.T) {
		m := center.manager(login.Options{})
		a, err := m.Begin(t.Context(), ssoSession(), false)
		if err != nil {
			t.Fatal(err)
		}
		browser.open(t, a.URL)
		if text, _ := browser.shows(t, "Allow stsbroker"); !strings.Contains(text, "Allow stsbroker") {
			t.Fatalf("the page says %q", text)
		}
		browser.click(t, "#allow")
		if err := a.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if text, at := browser.shows(t, "You are signed in. You may close this tab."); !strings.Contains(text, "You are signed in. You may close this tab.") || !strings.HasPrefix(at, "http://127.0.0.1:") {
			t.Errorf("%s says %q", at, text)
		}
		if err := mint(m); err != nil {
			t.Error(err)
		}
	})

	t.Run("denied", func(t *testing.T) {
		m := center.manager(login.Options{})
		a, err := m.Begin(t.Context(), ssoSession(), false)
		if err != nil {
			t.Fatal(err)
		}
		browser.open(t, a.URL)
		browser.click(t, "#deny")
		if err := a.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "it was refused in the browser") {
			t.Error(err)
		}
		if text, _ := browser.shows(t, "You are not signed in: it was refused in the browser."); !strings.Contains(text, "You are not signed in: it was refused in the browser.") {
			t.Errorf("the page says %q", text)
		}
	})

	t.Run("device", func(t *testing.T) {
		m := center.manager(login.Options{})
		a, err := m.Begin(t.Context(), ssoSession(), true)
		if err != nil {
			t.Fatal(err)
		}
		browser.open(t, a.URL)
		browser.click(t, "#allow")
		if text, _ := browser.shows(t, "Request approved"); !strings.Contains(text, "Request approved") {
			t.Errorf("the page says %q", text)
		}
		if err := a.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := mint(m); err != nil {
			t.Error(err)
		}
	})

	t.Run("twenty wait, one tab", func(t *testing.T) {
		m := center.manager(login.Options{})
		pages, mints := center.Count(ssofake.Authorize, ""), center.Count(ssofake.GetRoleCredentials, "")
		urls := make(chan string, 20)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		for i := range 20 {
			role := fmt.Sprint("role", i)
			center.Assign(account, role)
			wg.Go(func() {
				a, err := m.Begin(ctx, ssoSession(), false)
				if err != nil {
					t.Error(err)
					return
				}
				if a.First {
					urls <- a.URL
				}
				if err := a.Wait(ctx); err != nil {
					t.Error(err)
					return
				}
				if _, err := m.Role(ssoSession(), account, role).Mint(ctx, broker.MintInput{}); err != nil {
					t.Error(err)
				}
			})
		}
		browser.open(t, <-urls)
		browser.click(t, "#allow")
		wg.Wait()
		close(urls)
		if another, more := <-urls; more {
			t.Errorf("a second tab, at %s", another)
		}
		// The page is asked for once, and once more by the click.
		if n := center.Count(ssofake.Authorize, "") - pages; n != 2 {
			t.Errorf("%d requests of the page", n)
		}
		if n := center.Count(ssofake.GetRoleCredentials, "") - mints; n != 20 {
			t.Errorf("%d mints", n)
		}
	})
}
