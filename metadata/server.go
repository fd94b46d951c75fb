package metadata

import (
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/metadata/listen"
)

// Limits of a front door. A zero http.Server has none: it keeps for ever who
// sends one byte a minute, and takes a megabyte of headers.
const (
	headerTimeout = 2 * time.Second

	// idleTimeout is above what pooled clients keep a connection for (Go: 90 s),
	// so that they close first and never write into a closing connection.
	idleTimeout = 2 * time.Minute

	// writeTimeout runs from the end of the request's header: it holds the
	// door's patience, of less than a second, and a client that does not read.
	writeTimeout = 15 * time.Second

	// headerBytes is what a request line and headers may have; net/http lets
	// 4,096 bytes more than its MaxHeaderBytes through.
	headerBytes = 8 << 10
)

// NewServer returns a server for h with the limits of a front door: 2 s and
// 8 KB for a request's header, 2 minutes idle, HTTP/1.1 alone. Its connections
// carry their [listen.Caller]. errorLog gets a line, without a line break, for
// each thing that net/http complains of. [Serve] runs it.
func NewServer(h http.Handler, errorLog func(line string)) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // and no HTTP/2 in clear text
	return &http.Server{
		Handler:                      h,
		DisableGeneralOptionsHandler: true, // net/http answers OPTIONS * itself, past the guard
		ReadHeaderTimeout:            headerTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               headerBytes - 4096,
		ErrorLog:                     log.New(lineWriter(errorLog), "", 0),
		ConnContext:                  listen.ConnContext,
		Protocols:                    protocols,
	}
}

// lineWriter is a func as the io.Writer that package log wants: one call a line.
type lineWriter func(line string)

func (f lineWriter) Write(p []byte) (int, error) {
	f(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
