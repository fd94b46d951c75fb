package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// aliveWithin is how long the broker may take to know whether it works: what it asks
// are its own locks.
const aliveWithin = 2 * time.Second

// asking is one question to the broker whether it works, for all who wait for the answer.
type asking struct {
	done chan struct{}
	err  error // once done is closed
}

// alive is [broker.Broker.Alive], with an end: whoever asks about locks may wait on them.
// Of a question that is not answered no second is asked.
func (a *app) alive() error {
	a.asks.Lock()
	q := a.asked
	if q == nil {
		q = &asking{done: make(chan struct{})}
		a.asked = q
		go func() {
			q.err = a.broker.Alive()
			close(q.done)
			a.asks.Lock()
			a.asked = nil
			a.asks.Unlock()
		}()
	}
	a.asks.Unlock()
	late := time.NewTimer(aliveWithin)
	defer late.Stop()
	select {
	case <-q.done:
		return q.err
	case <-late.C:
		return fmt.Errorf("the broker did not say within %s whether it works", aliveWithin)
	}
}

// waiting says which prefetched profiles hold nothing, nil where all do.
func (a *app) waiting() error {
	if names := a.broker.Ready(); len(names) > 0 {
		return fmt.Errorf("no credentials yet: %s", strings.Join(names, ", "))
	}
	return nil
}

// health serves metrics and probes, and nothing else: no name of a profile, which is
// nobody's business who has no token. No ServeMux: that one redirects.
func (a *app) health() http.Handler {
	metrics := a.observer.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		probe := func(err error, bad string) {
			status, text := http.StatusOK, "ok\n"
			if err != nil {
				status, text = http.StatusServiceUnavailable, bad+"\n"
			}
			a.observer.Request("metrics", status)
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
		switch r.URL.Path {
		case "/metrics":
			a.observer.Request("metrics", http.StatusOK)
			metrics.ServeHTTP(w, r)
		case "/healthz":
			probe(a.alive(), "a renewal hangs; stsbroker status and the log say which")
		case "/readyz":
			probe(a.waiting(), fmt.Sprintf("%d prefetched profiles hold no credentials; stsbroker ready says which", len(a.broker.Ready())))
		default:
			a.observer.Request("metrics", http.StatusNotFound)
			http.Error(w, "metrics are at /metrics, probes at /healthz and /readyz", http.StatusNotFound)
		}
	})
}
