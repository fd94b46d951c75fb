package listen

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// CloseSilent ends a connection where nothing waits to be read, and no other.
func TestCloseSilent(t *testing.T) { everyKind(t, 8, testCloseSilent) }

func testCloseSilent(t *testing.T, l []net.Listener, _ *shared) {
	ender := l[0].(interface{ CloseSilent(time.Duration) int })
	never := time.Time{}
	soon := func() time.Time { return time.Now().Add(time.Hour) } // what net/http sets while it waits for a request
	type result struct {
		n   int
		err error
	}
	pair := func() (client, server net.Conn) {
		client = dial(t, l[0].Addr())
		server, err := l[0].Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
		return client, server
	}
	read := func(c net.Conn, size int) chan result {
		done := make(chan result, 1)
		go func() { n, err := c.Read(make([]byte, size)); done <- result{n, err} }()
		return done
	}
	sent := func(c net.Conn, s string) {
		t.Helper()
		if _, err := io.WriteString(c, s); err != nil {
			t.Fatal(err)
		}
	}
	// over is how the client sees an end: nothing more, and no reset.
	over := func(name string, c net.Conn) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("%s: its client reads %d, %v", name, n, err)
		}
	}

	client, server := pair()
	_ = server.SetReadDeadline(soon())
	waiting := read(server, 4)
	// fired reports whether the reader has been told to look a last time.
	fired := func() bool { return server.(*conn).read.last.Load() }
	if n := ender.CloseSilent(time.Hour); n != 1 {
		t.Errorf("%d are open", n)
	}
	select {
	case r := <-waiting:
		t.Errorf("ended before its time: %+v", r)
	default:
	}
	ender.CloseSilent(0)
	if r := <-waiting; r.n != 0 || !errors.Is(r.err, io.EOF) {
		t.Errorf("silent: %+v", r)
	}
	over("silent", client)
	if _, ok := client.(*net.UnixConn); ok { // and knows that what it sends now is not heard
		if _, err := io.WriteString(client, "late"); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("silent: its client sends, %v", err)
		}
	}
	_ = server.Close()

	// The last look finds what came before it.
	client, server = pair()
	_ = server.SetReadDeadline(soon())
	sent(client, "ab")
	ender.CloseSilent(0)
	buf := make([]byte, 1)
	if n, err := server.Read(buf); n != 1 || err != nil || buf[0] != 'a' {
		t.Fatalf("something waits: %q, %v", buf[:n], err)
	}
	if ender.CloseSilent(0); fired() {
		t.Error("ended while a request is read")
	}
	if n, err := server.Read(buf); n != 1 || err != nil || buf[0] != 'b' {
		t.Fatalf("the rest of a request: %q, %v", buf[:n], err)
	}
	rest := read(server, 1)
	ender.CloseSilent(0)
	sent(client, "c")
	if r := <-rest; r.n != 1 || r.err != nil {
		t.Errorf("the end of a request: %+v", r)
	}
	// While it is answered, net/http reads on, to learn of a client that leaves.
	_ = server.SetReadDeadline(never)
	meanwhile := read(server, 1)
	if ender.CloseSilent(0); fired() {
		t.Error("ended while a request is answered")
	}
	_ = server.SetReadDeadline(time.Unix(1, 0))
	if r := <-meanwhile; r.n != 0 || !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Errorf("interrupted while it is answered: %+v", r)
	}
	_ = server.SetReadDeadline(never)
	ender.CloseSilent(0)
	sent(server, "answer")
	if got, err := io.ReadAll(io.LimitReader(client, 6)); string(got) != "answer" || err != nil {
		t.Errorf("answered %q, %v", got, err)
	}
	// And then it waits again.
	_ = server.SetReadDeadline(soon())
	ender.CloseSilent(0)
	if n, err := server.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("silent again: %d, %v", n, err)
	}
	over("silent again", client)
	_ = server.Close()

	// A new deadline takes it back, and the next call does it again.
	_, server = pair()
	_ = server.SetReadDeadline(soon())
	ender.CloseSilent(0)
	_ = server.SetReadDeadline(soon())
	if fired() {
		t.Error("a new deadline does not take it back")
	}
	waiting = read(server, 1)
	ender.CloseSilent(0)
	if r := <-waiting; r.n != 0 || !errors.Is(r.err, io.EOF) {
		t.Errorf("silent for the second time: %+v", r)
	}
	_ = server.Close()

	// So does what came in the same moment.
	client, server = pair()
	_ = server.SetReadDeadline(soon())
	ender.CloseSilent(0)
	server.(*conn).read.came(server.(*conn).stream.SetReadDeadline)
	if fired() {
		t.Error("what came does not take it back")
	}
	rest = read(server, 1)
	sent(client, "d")
	if r := <-rest; r.n != 1 || r.err != nil {
		t.Errorf("what came in the same moment: %+v", r)
	}
	_, _ = server.Close(), client.Close()

	// One that its client has closed is told as before.
	client, server = pair()
	_ = server.SetReadDeadline(soon())
	_ = client.Close()
	ender.CloseSilent(0)
	if n, err := server.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("closed by its client: %d, %v", n, err)
	}
	_ = server.Close()

	if len(l) > 1 {
		dial(t, l[1].Addr())
		other, err := l[1].Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		_ = other.SetReadDeadline(soon())
		if n := ender.CloseSilent(0); n != 0 {
			t.Errorf("%d are open, on another listener", n)
		}
	}
	if n := ender.CloseSilent(0); n != 0 {
		t.Errorf("%d are open", n)
	}
}
