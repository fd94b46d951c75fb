package main

import (
	"cmp"
	"time"
)

// A clock that is further off than this is told of, and one that is further off than
// STS allows stops everything.
const (
	clockDrift = 4 * time.Minute
	clockLimit = 15 * time.Minute
)

// issuer is what stands between the broker and STS, as seen from here.
func (d *diagnosis) issuer() {
	t := d.sts
	if t.Timed && t.Skew.Abs() > clockDrift {
		raise, way := d.risk, "ahead of"
		if t.Skew.Abs() > clockLimit {
			raise = d.stops
		}
		if t.Skew < 0 {
			way = "behind"
		}
		raise("clock", setClock(d.goos), "this host's clock is %s %s that of STS: signatures are refused from 15m on, and SDKs take credentials for ended, or too long for good", span(t.Skew.Abs()), way)
	}
	raise := d.stops
	if d.holds() || d.endpoint.Ours && d.broker.Status == nil {
		raise = d.risk // what is held is served meanwhile, or the broker has another way
	}
	proxied := "export HTTPS_PROXY=http://HOST:PORT, then: " + d.restart()
	through := "unset HTTPS_PROXY https_proxy (or name a proxy that works), then: " + d.restart()
	switch t.Kind {
	case stsDNS:
		raise("sts-dns", d.resolve(t.Host)+" (prints an address once name service works)", "the name %s cannot be resolved: %s", t.Host, t.Detail)
	case stsRefused:
		raise("sts-tcp", proxied+" (or open the firewall to "+t.Host+")", "%s refuses the connection", t.Host)
	case stsSilent:
		raise("sts-tcp", proxied+" (or open the firewall to "+t.Host+")", "%s does not answer: no connection within 3 s", t.Host)
	case stsNoRoute:
		raise("sts-tcp", "ip route (is there a default one?)", "there is no route to %s", t.Host)
	case stsAuthority:
		by := ""
		if t.Detail != "" {
			by = " by " + t.Detail
		}
		raise("sts-tls-authority", "export AWS_CA_BUNDLE=/path/to/your/ca.pem, then: "+d.restart(), "the certificate of %s is signed%s, whom this host does not trust: a proxy that reads TLS, or a private endpoint", t.Host, by)
	case stsExpired:
		raise("sts-tls-expired", "date -u (is the clock right? "+setClock(d.goos)+"); else have the certificate renewed", "the certificate of %s has ended on %s", t.Host, t.Detail)
	case stsNotYet:
		raise("sts-tls-expired", setClock(d.goos), "the certificate of %s begins on %s, so that this host's clock is behind", t.Host, t.Detail)
	case stsName:
		raise("sts-tls-name", d.resolve(t.Host)+" (is that address the endpoint's? mend sts.endpoints or "+varEndpointURL+")", "what answers as %s has a certificate for another name", t.Host)
	case stsTLS:
		raise("sts-tls", "openssl s_client -connect "+withPort(t.Host)+" </dev/null", "no TLS connection to %s: %s", t.Host, t.Detail)
	case stsProxyDown:
		raise("sts-proxy", through, "the proxy %s cannot be reached: %s", t.Proxy, t.Detail)
	case stsProxyLogin:
		raise("sts-proxy-login", "export HTTPS_PROXY=http://USER:PASSWORD@"+t.Proxy+", then: "+d.restart(), "the proxy %s wants a user and password (HTTP 407)", t.Proxy)
	case stsProxyNo:
		raise("sts-proxy-refuses", "export NO_PROXY="+direct(d.env["NO_PROXY"], []string{hostOf("https://" + t.Host)})+" (or have the proxy let it through), then: "+d.restart(), "the proxy %s does not connect to %s: %s", t.Proxy, t.Host, t.Detail)
	case stsProxyURL:
		raise("sts-proxy", through, "HTTPS_PROXY is no URL of a proxy")
	case stsMute:
		raise("sts-silent", "curl -sv -m 5 "+cmp.Or(t.Scheme, "https")+"://"+t.Host+"/", "%s takes the connection and does not answer", t.Host)
	case stsFailing:
		raise("sts-failing", d.self+" doctor (again in a minute; sts.fallback_regions in stsbroker.yaml names regions that stand in)", "STS at %s fails: %s", t.Host, t.Detail)
	case stsForeign:
		raise("sts-foreign", "curl -sv "+cmp.Or(t.Scheme, "https")+"://"+t.Host+"/ (a sign-in page of the network?)", "what answers as %s is not STS: %s", t.Host, t.Detail)
	case stsFailed:
		raise("sts-failed", d.check(), "STS at %s cannot be asked: %s", cmp.Or(t.Host, "the configured endpoint"), t.Detail)
	}
}

func (d *diagnosis) resolve(host string) string {
	name := hostOf("https://" + host)
	if d.goos == "linux" {
		return "getent hosts " + name
	}
	return "nslookup " + name
}

func withPort(host string) string {
	u := asURL("https://" + host)
	if u.URL == nil || u.URL.Port() != "" {
		return host
	}
	return host + ":443"
}

func setClock(goos string) string {
	switch goos {
	case "windows":
		return "w32tm /resync"
	case "darwin":
		return "sudo sntp -sS time.apple.com"
	}
	return "sudo timedatectl set-ntp true"
}
