package metadata

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Security row 13: who never finishes a request is gone after 3.5 s, and
// meanwhile others are served.
func TestSlowloris(t *testing.T) {
	n := 2000
	if testing.Short() {
		n = 200
	}
	if most := (maxFiles() - 300) / 2; n > most { // both ends are ours
		t.Logf("only %d connections: no more descriptors may be open here", most)
		n = most
	}
	r := start(t, nil)
	var (
		held    atomic.Int64
		wg      sync.WaitGroup
		dialing sync.WaitGroup
	)
	dialing.Add(n)
	for i := range n {
		wg.Go(func() {
			c, err := net.Dial("tcp", r.addr)
			dialing.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			end := time.Now().Add(3500 * time.Millisecond)
			_ = c.SetDeadline(end)
			var sent string // a third sends nothing, a third a line, a third a header without end
			switch i % 3 {
			case 1:
				sent = "GET /credentials/dev HTTP/1.1\r\n"
			case 2:
				sent = "GET /credentials/dev HTTP/1.1\r\nHost: localhost\r\nAuthorization: "
			}
			_, _ = io.WriteString(c, sent)
			if i%3 == 2 {
				drip := time.NewTicker(500 * time.Millisecond)
				defer drip.Stop()
				stop := make(chan struct{})
				defer close(stop)
				go func() {
					for {
						select {
						case <-drip.C:
							_, _ = c.Write([]byte{'x'})
						case <-stop:
							return
						}
					}
				}()
			}
			_, err = io.Copy(io.Discard, c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				held.Add(1)
			}
		})
	}
	dialing.Wait()
	for range 100 {
		if a := r.get(t, "/credentials/dev"); a.status != http.StatusOK {
			t.Errorf("an honest caller: %d", a.status)
		}
	}
	wg.Wait()
	if held.Load() != 0 {
		t.Errorf("%d of %d held after 3.5 s", held.Load(), n)
	}
}

// The header as a whole may have 8 KB.
func TestHeaderLimit(t *testing.T) {
	r := start(t, nil)
	for name, c := range map[string]struct {
		request string
		want    int
	}{
		"7 KB of one header":     {line + host + auth + "X: " + strings.Repeat("x", 7<<10) + "\n\n", http.StatusOK},
		"9 KB of one header":     {line + host + auth + "X: " + strings.Repeat("x", 9<<10) + "\n\n", http.StatusRequestHeaderFieldsTooLarge},
		"9 KB of headers":        {line + host + auth + strings.Repeat("X: xxxxxxxxxx\n", 9<<10/14+1) + "\n", http.StatusRequestHeaderFieldsTooLarge},
		"9 KB of path":           {"GET /credentials/" + strings.Repeat("x", 9<<10) + " HTTP/1.1\n" + host + auth + "\n", http.StatusRequestHeaderFieldsTooLarge},
		"900 KB, never finished": {line + host + auth + "X: " + strings.Repeat("x", 900<<10), http.StatusRequestHeaderFieldsTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, r.addr)
			done := make(chan struct{})
			go func() { // the server may stop reading
				defer close(done)
				_, port, _ := net.SplitHostPort(r.addr)
				_, _ = io.WriteString(conn.Conn, strings.NewReplacer("PORT", port, "TOKEN", goodToken, "\n", "\r\n").Replace(c.request))
			}()
			resp, err := http.ReadResponse(conn.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.want {
				t.Errorf("%d, want %d", resp.StatusCode, c.want)
			}
			_ = conn.Close()
			<-done
		})
	}
}

func TestServerOptions(t *testing.T) {
	var lines []string
	s := NewServer(http.NotFoundHandler(), func(line string) { lines = append(lines, line) })
	s.ErrorLog.Printf("one %s", "thing")
	s.ErrorLog.Print("another\n")
	if got := fmt.Sprintf("%q", lines); got != `["one thing" "another"]` {
		t.Errorf("logged %s", got)
	}
	if s.WriteTimeout < 2*ContainerPatience {
		t.Errorf("a write time-out of %v cuts a patience of %v", s.WriteTimeout, ContainerPatience)
	}
}

// Two requests sent at once are both answered, in order.
func TestPipelining(t *testing.T) {
	r := start(t, nil)
	c := dial(t, r.addr)
	if a := c.do(line + host + auth + "\n" + "GET /credentials/nobody HTTP/1.1\n" + host + auth + "\n"); a.status != http.StatusOK {
		t.Errorf("first: %d", a.status)
	}
	if a := c.do(""); a.status != http.StatusForbidden {
		t.Errorf("second: %d", a.status)
	}
}
