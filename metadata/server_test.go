package metadata

import (
	"fmt"
	"net/http"
	"testing"
)

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
