package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/peer"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// ask opens connections: to the endpoint, to ports, to STS.
func (s *surroundings) ask(ctx context.Context, p place) {
	var wg sync.WaitGroup
	if s.goos == "linux" {
		wg.Go(func() { s.peer = peer.Works() })
	}
	wg.Go(func() {
		if s.endpoint = s.askEndpoint(ctx); s.endpoint.Asked && s.endpoint.Err == nil && !s.endpoint.Ours {
			s.endpoint.Holder = listenerOf("/proc", s.door.addr())
		}
	})
	if s.broker.Status == nil && s.broker.Err == nil && !s.broker.Foreign && !s.broker.Silent {
		wg.Go(func() { s.taken = takenPorts(ctx, s.listen.addresses()) })
	}
	var why string
	wg.Go(func() { s.sts, why = s.askSTS(ctx, p) })
	wg.Wait()
	if why != "" {
		s.notLooked = append(s.notLooked, "STS ("+why+")")
	}
	if s.door.Kind != "" && !s.endpoint.Asked {
		s.notLooked = append(s.notLooked, "the endpoint, which is not on this host")
	}
}

// token is what an SDK would send, and whether it would send any.
func (s *surroundings) token() (string, bool) {
	if t := s.env[varToken]; t != "" {
		return t, true
	}
	return string(s.tokenFile.Data), s.tokenFile.Path != "" && s.tokenFile.Err == nil && len(s.tokenFile.Data) > 0
}

// isHere reports whether the address is one of this host, so that whoever answers is.
func (s *surroundings) isHere(a netip.Addr) bool {
	return a.IsLoopback() || slices.Contains(s.addresses, a)
}

// askEndpoint asks without a token, and then, if it may, shows the token at a path where
// nothing is: the broker says whether it knows the token, and mints nothing. At IMDS it
// asks for a session token, as clients do.
func (s *surroundings) askEndpoint(ctx context.Context) doorSeen {
	at := s.door.addr()
	if !at.IsValid() || s.door.URL.Scheme != "http" || !s.isHere(at.Addr()) {
		return doorSeen{}
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	out := s.askOnce(ctx, "")
	if token, _ := s.token(); out.Err == nil && s.mayShow(out.Ours) {
		out = s.askOnce(ctx, token)
		out.Shown = true
	}
	return out
}

// mayShow reports whether the token may be shown to who answers at the endpoint, as a
// broker does or not. Anybody can have the port, and can answer like a broker: where one
// is known, it has to be there. And nobody is told what no SDK would tell.
func (s *surroundings) mayShow(ours bool) bool {
	token, has := s.token()
	return s.door.container() && has && !hasBreak(token) && s.door.allowed() && ours &&
		(s.broker.Status == nil || s.broker.serves(s.door.addr()))
}

// askOnce asks the endpoint, with a token unless that is "".
func (s *surroundings) askOnce(ctx context.Context, token string) doorSeen {
	out := doorSeen{Asked: true}
	method, url := http.MethodGet, "http://"+s.door.addr().String()+"/doctor"
	if s.door.Kind == doorIMDS {
		method, url = http.MethodPut, "http://"+s.door.addr().String()+"/latest/api/token"
	}
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		out.Err = err
		return out
	}
	switch {
	case s.door.Kind == doorIMDS:
		r.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "1")
	case token != "":
		r.Header.Set("Authorization", token)
	}
	// No proxy: where SDKs would use one is said without trying.
	way := &http.Transport{DisableKeepAlives: true}
	resp, err := way.RoundTrip(r)
	if err != nil {
		out.Err = err
		return out
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	out.Status = resp.StatusCode
	if s.door.Kind == doorIMDS {
		out.Ours = resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusForbidden
		return out
	}
	var said struct{ Code, Message string }
	if json.Unmarshal(body, &said) == nil && said.Code != "" {
		out.Ours = resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusServiceUnavailable
		if out.Code = said.Code; token == "" || !strings.Contains(said.Message, token) { // whoever it is may repeat the token
			out.Message = said.Message
		}
	}
	return out
}

// hasBreak reports whether a token has what no header may have, or what is none of it.
func hasBreak(token string) bool {
	return strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// takenPorts are the addresses that somebody answers at.
func takenPorts(ctx context.Context, addresses []string) (taken []portSeen) {
	for _, a := range addresses {
		at, err := netip.ParseAddrPort(a)
		if err != nil || at.Port() == 0 || listen.LinkLocal(at.Addr()) {
			continue
		}
		d := net.Dialer{Timeout: 500 * time.Millisecond}
		conn, err := d.DialContext(ctx, "tcp", at.String())
		if err != nil {
			continue
		}
		_ = conn.Close()
		taken = append(taken, portSeen{at, listenerOf("/proc", at), isBroker(ctx, at)})
	}
	return taken
}

// isBroker asks without a token, which a broker's container door refuses in its own words.
func isBroker(ctx context.Context, at netip.AddrPort) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s := surroundings{env: map[string]string{varFullURI: "http://" + at.String()}}
	s.door = wayOf(s.lookup)
	return s.askEndpoint(ctx).Ours
}

// ourToken is what the broker knows of the token, nil for nothing.
func (s *surroundings) ourToken() *control.Token {
	shown, has := s.token()
	if shown = strings.TrimSpace(shown); !has || !access.IsToken(shown) {
		return nil
	}
	for i, t := range s.broker.Tokens {
		if t.ID != "" && strings.Contains(shown, t.ID) {
			return &s.broker.Tokens[i]
		}
	}
	return nil
}
