package ssofake

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"
)

// Running is a stand-in that listens.
type Running struct {
	URL  string // such as "http://127.0.0.1:41234"
	srv  *http.Server
	done chan struct{}
}

// Start serves on a loopback address such as "127.0.0.1:0". It refuses any
// other: the stand-in speaks plain HTTP.
func (s *Server) Start(addr string) (*Running, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("the stand-in listens on a loopback address alone, not on %q", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	r := &Running{
		URL: "http://" + l.Addr().String(),
		srv: &http.Server{
			Handler:           s,
			ReadHeaderTimeout: 5 * time.Second,
			IdleTimeout:       time.Minute,
			ErrorLog:          log.New(io.Discard, "", 0),
		},
		done: make(chan struct{}),
	}
	go func() {
		defer close(r.done)
		_ = r.srv.Serve(l)
	}()
	return r, nil
}

// Close stops listening, and drops the connections that are open.
func (r *Running) Close() error {
	err := r.srv.Close()
	<-r.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
