package metadata

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// lastAnswers is how long requests under way may take when a server ends.
	lastAnswers = 2 * time.Second

	// drainGrain is how often a draining server looks at its connections.
	drainGrain = 5 * time.Millisecond

	// firstWord is how long a client that has just connected, or has just been
	// answered, has for its next request once nothing more is accepted. Nobody
	// answers new connections meanwhile: they wait for our successor.
	firstWord = 100 * time.Millisecond
)

// Serve answers with s on l until ctx ends, and returns nil when what was under way then is
// answered, or cut off after 2 s. It closes l. Any other end is an error.
//
// drain is 0 where nobody takes our place: the server ends at once, as
// http.Server.Shutdown has it. It is above 0, and l one of package listen, where systemd holds a socket
// of this process and starts our successor when we are gone. Then no request is lost at such
// a socket. One that this process opened itself is drained beside it all the same, as the process
// lasts that long anyway: it is answered until then, and who connects between its end and our
// successor is refused. In order:
//
//   - For that time all goes on, but each answer is the last of its connection and says so
//     (RFC 9112, 9.6), so that clients connect anew without a fault.
//   - Then nothing more is accepted: new connections wait at systemd's socket, or are
//     refused at one of our own.
//   - Connections that were silent all that time are ended, each one only if nothing of it
//     waits to be read. Not so http.Server.Shutdown: it drops a request
//     that arrives on a kept connection while it looks.
//   - Those that came last have a moment for their first request.
//
// Left is what no server can mend: a request that is on its way in the
// microsecond between that last look and the end of its connection.
//
// The contexts of requests end with ctx where drain is 0, else when Serve
// returns. s.BaseContext, where it is set, has its own way: answers that are held for
// as long as the server lives need that.
func Serve(ctx context.Context, s *http.Server, l net.Listener, drain time.Duration) error {
	silent, ok := l.(interface{ CloseSilent(time.Duration) int })
	if !ok {
		drain = 0
	}
	base := ctx
	var ending atomic.Bool
	if drain > 0 {
		var cancel context.CancelFunc
		base, cancel = context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		s.Handler = &farewell{next: s.Handler, ending: &ending}
	}
	if s.BaseContext == nil {
		s.BaseContext = func(net.Listener) context.Context { return base }
	}
	served := make(chan struct{})
	var failed error
	go func() {
		failed = s.Serve(l)
		close(served)
	}()
	select {
	case <-served:
		return fmt.Errorf("the listener on %s failed: %w", l.Addr(), failed)
	case <-ctx.Done():
	}

	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain+lastAnswers)
	defer cancel()
	if drain > 0 {
		ending.Store(true)
		tick := time.NewTicker(drainGrain)
		defer tick.Stop()
		silent.CloseSilent(drain) // whoever is silent is so from now on
		for over := time.After(drain); over != nil; {
			select {
			case <-over:
				over = nil
			case <-tick.C:
				silent.CloseSilent(drain)
			}
		}
		_ = l.Close()
		<-served // what was accepted until then is a connection of l's now
		for silent.CloseSilent(firstWord) > 0 && late.Err() == nil {
			<-tick.C
		}
	}
	if s.Shutdown(late) != nil {
		_ = s.Close() // whoever still waits is cut off: the process ends
	}
	<-served
	return nil
}

// farewell makes each answer its connection's last while the server ends.
type farewell struct {
	next   http.Handler
	ending *atomic.Bool
}

func (f *farewell) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.ending.Load() {
		w.Header().Set("Connection", "close")
	}
	f.next.ServeHTTP(w, r)
}
