package metadata

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// Requests counts answers. It is called once for each, and must not allocate.
type Requests interface {
	Request(door string, status int)
}

// Guard lets through to next what an AWS SDK may send, and answers the rest
// with 403, so that neither a web page nor a forwarded request reaches a door:
//
//   - Host must be 127.0.0.1, localhost or [::1], or where the listener has a
//     link-local address that address alone, with the port of the listener or, as
//     the CRT sends it, without. A page whose name was rebound still sends its own
//     name. An absolute request target would replace Host, and is refused.
//   - no Origin, Referer, Sec-Fetch-Site, Cookie or Access-Control-Request-*:
//     browsers add them. (Sec-Fetch-Mode passes: Node's fetch sends it.) No
//     answer ever has a CORS header.
//     At a link-local address, where they leave some of these away, no Accept-Language.
//   - no Forwarded, X-Forwarded-* or Via: a proxy speaks for somebody else.
//   - no body: nothing that is served here takes one, and net/http accepts
//     Transfer-Encoding and Content-Length together.
//   - GET alone, else 405: no request changes anything. (The IMDS door also
//     takes PUT, with which its clients begin. s3fs sends it in chunks, of which
//     there is none: that loses the connection, and is no body.)
//
// Who is refused loses the connection too, so that only those who are served
// can keep one. Refusals are counted and observed under the name of the door.
//
// The server must be one of [NewServer]: without a [listen.Caller] in the
// context, everything is refused.
func Guard(door string, next http.Handler, requests Requests, observer broker.Observer) http.Handler {
	return &guard{
		refuser: refuser{door: door, requests: requests, observer: observer},
		next:    func(w http.ResponseWriter, r *http.Request, _ *listen.Caller) { next.ServeHTTP(w, r) },
	}
}

type guard struct {
	refuser
	put  bool // PUT passes too
	next func(http.ResponseWriter, *http.Request, *listen.Caller)
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	caller := listen.FromContext(r.Context())
	if caller == nil {
		g.turnAway(w, r, &listen.Caller{}, "the connection's caller was not recorded")
		return
	}
	if g.put && r.Method == http.MethodPut && r.ContentLength < 0 && r.Trailer == nil && drained(w, r) {
		r.ContentLength, r.TransferEncoding = 0, nil
		w.Header()["Connection"] = closeValue // whatever else came, it is not read as another request
	}
	if why := objection(r, caller); why != "" {
		g.turnAway(w, r, caller, why)
		return
	}
	if r.Method != http.MethodGet && !(g.put && r.Method == http.MethodPut) {
		allow := allowGet
		if g.put {
			allow = allowBoth
		}
		g.wrongMethod(w, brokerCaller(g.door, caller), allow)
		return
	}
	if caller.Host != "" { // a page could name this address, and its body is nobody's script, image or frame
		w.Header()["Cross-Origin-Resource-Policy"] = sameOriginValue
		w.Header()["X-Content-Type-Options"] = noSniffValue
	}
	if r.ProtoMajor == 1 && r.ProtoMinor == 0 {
		// net/http ignores Transfer-Encoding here; what it leaves unread must
		// not be taken for a second request.
		w.Header()["Connection"] = closeValue
	}
	g.next(w, r, caller)
}

// Header values are shared by all answers: net/http only reads them.
var (
	allowGet   = []string{http.MethodGet}
	allowPut   = []string{http.MethodPut}
	allowBoth  = []string{http.MethodGet + ", " + http.MethodPut}
	closeValue = []string{"close"}

	sameOriginValue = []string{"same-origin"}
	noSniffValue    = []string{"nosniff"}
)

// bodyPatience is how long the rest of a refused body may take to arrive.
// Closing with unread bytes would reset the connection under our answer.
const bodyPatience = 250 * time.Millisecond

// drained reports whether a body of unknown length is empty, within bodyPatience.
func drained(w http.ResponseWriter, r *http.Request) bool {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyPatience))
	n, err := r.Body.Read(make([]byte, 1))
	return n == 0 && err == io.EOF
}

func (g *guard) turnAway(w http.ResponseWriter, r *http.Request, caller *listen.Caller, why string) {
	if hasBody(r) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyPatience))
	}
	g.refuse(w, http.StatusForbidden, brokerCaller(g.door, caller), &broker.Error{
		Kind:   broker.KindForbidden,
		Public: "refused: " + why,
		Cause:  fmt.Errorf("%.16q with Host %.100q", r.Method, r.Host),
	})
}

// objection says why a request is refused, "" if it is not.
func objection(r *http.Request, caller *listen.Caller) string {
	switch {
	case !strings.HasPrefix(r.RequestURI, "/"):
		return "the request target must be a path"
	case caller.Host != "" && !isHost(r.Host, caller.Host, caller.LocalPort):
		return "Host must be " + caller.Host + ", with this port or none"
	case caller.Host == "" && !isLoopback(r.Host, caller.LocalPort):
		return "Host must be 127.0.0.1, localhost or [::1], with this port or none"
	case hasBody(r):
		return "a request has no body here"
	}
	if name := foreignHeader(r.Header); name != "" {
		return "requests of browsers and proxies (" + name + ") are not served"
	}
	// To an address that is not loopback browsers send no Sec-Fetch-Site over plain
	// http (Fetch Metadata, 2: only to trustworthy URLs), and a page can leave Referer
	// away. A language is always there; fetch of Node sends the one that is no browser's.
	if said := r.Header["Accept-Language"]; caller.Host != "" && len(said) > 0 && (len(said) > 1 || said[0] != "*") {
		return "requests of browsers (Accept-Language) are not served"
	}
	return ""
}

// isLoopback reports whether host, which is Request.Host (net/http takes the header
// out of the map), names this host as SDKs do.
func isLoopback(host, port string) bool {
	return isHost(host, "127.0.0.1", port) || isHost(host, "localhost", port) || isHost(host, "[::1]", port)
}

// isHost is exact: no case folding, no trailing dot, no other spelling of an address.
func isHost(host, name, port string) bool {
	rest, ok := strings.CutPrefix(host, name)
	return ok && (rest == "" || rest[0] == ':' && rest[1:] == port && port != "")
}

func hasBody(r *http.Request) bool { return r.ContentLength != 0 || len(r.TransferEncoding) != 0 }

// foreignHeader returns the name of a header that no SDK sends, "" if there is
// none. net/http has made names canonical, and refused those it could not.
func foreignHeader(h http.Header) string {
	for name := range h {
		switch name {
		case "Origin", "Referer", "Sec-Fetch-Site", "Cookie", "Forwarded", "Via":
			return name
		}
		if strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "Access-Control-Request-") {
			return name
		}
	}
	return ""
}

// brokerCaller is the caller in the domain's words. It does not ask the kernel.
func brokerCaller(door string, c *listen.Caller) broker.Caller {
	return broker.Caller{Door: door, Remote: c.Remote}
}
