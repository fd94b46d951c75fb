package ambient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/printable"
)

const (
	limit   = 5 * time.Second // for a whole mint
	maxBody = 64 << 10        // bytes, of any answer
	maxText = 200             // bytes, of what an endpoint says about itself
)

// answer is what both endpoints give: credentials, or why not. The names of
// fields differ in case, which encoding/json does not mind.
type answer struct {
	Code, Message   string
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	Token           string
	AccountID       string `json:"AccountId"`
	Expiration      string // RFC 3339
}

// Mint implements [broker.Minter]. It asks once: trying again is the broker's
// business. The lifetime goes by the endpoint's own clock if it tells.
//
// The SDK's clients are not used, because neither is fit for a process that
// must not stop and must know how long a set lives: one panics on the answer
// "null", the other cuts the expiry to one hour by the host's clock.
func (m *Minter) Mint(ctx context.Context, _ broker.MintInput) (broker.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, err := m.fetch(ctx, m)
	if err != nil {
		return broker.Credentials{}, err
	}
	var a answer
	if json.Unmarshal(r.body, &a) != nil { // the error's text may quote the answer
		return broker.Credentials{}, m.refuse(broker.KindUnavailable, nil, "the endpoint's answer is not JSON of the expected form")
	}
	expires, err := time.Parse(time.RFC3339, a.Expiration)
	switch {
	case a.Code != "" && !strings.EqualFold(a.Code, "Success"): // the metadata service says so with status 200
		return broker.Credentials{}, m.refused(broker.KindDenied, a)
	case a.AccessKeyID == "" || a.SecretAccessKey == "" || a.Token == "":
		return broker.Credentials{}, m.refuse(broker.KindUnavailable, nil, "the endpoint's answer lacks a key or the session token")
	case a.Expiration == "":
		return broker.Credentials{}, m.refuse(broker.KindConfig, nil, "the endpoint's answer has no Expiration: nobody could tell when to renew, nor when the credentials are dead")
	case err != nil:
		return broker.Credentials{}, m.refuse(broker.KindUnavailable, nil, "the endpoint's Expiration is not RFC 3339")
	case !expires.After(r.date):
		return broker.Credentials{}, m.refuse(broker.KindUnavailable, nil, "the endpoint's credentials had expired %s ago", r.date.Sub(expires).Round(time.Second))
	}
	return broker.Credentials{
		AccessKeyID:     a.AccessKeyID,
		SecretAccessKey: broker.NewSecret(a.SecretAccessKey),
		SessionToken:    broker.NewSecret(a.Token),
		AccountID:       a.AccountID,
		Issued:          r.date,
		Expires:         expires,
	}, nil
}

// fetchECS asks the container credentials endpoint, as AWS describes it in
// "Container credential provider" (AWS SDKs and Tools reference guide).
func fetchECS(ctx context.Context, m *Minter) (reply, error) {
	token, err := m.authorization()
	if err != nil {
		return reply{}, err
	}
	return m.ask(ctx, http.MethodGet, m.endpoint, "Authorization", token)
}

// authorization returns the token to show, "" for none.
func (m *Minter) authorization() (string, error) {
	token, from := m.token.Reveal(), "AWS_CONTAINER_AUTHORIZATION_TOKEN"
	if m.tokenFile != "" {
		// Looking before opening keeps a FIFO from blocking the mint.
		if info, err := os.Stat(m.tokenFile); err == nil && !info.Mode().IsRegular() {
			return "", m.refuse(broker.KindConfig, nil, "its token file %s is not a regular file", m.tokenFile)
		}
		f, err := os.Open(m.tokenFile)
		if err != nil {
			return "", m.refuse(broker.KindConfig, err, "its token file cannot be read")
		}
		defer f.Close()
		raw, err := io.ReadAll(io.LimitReader(f, maxBody))
		if err != nil {
			return "", m.refuse(broker.KindConfig, err, "its token file cannot be read")
		}
		token, from = string(raw), m.tokenFile
	}
	if strings.ContainsAny(token, "\r\n") {
		return "", m.refuse(broker.KindConfig, nil, "the token in %s has a newline, which no HTTP header can carry", from)
	}
	return token, nil
}

// fetchEC2 asks the instance metadata service, as AWS describes it in "Use the
// Instance Metadata Service to access instance metadata" (EC2 user guide):
// version 2 only, because version 1 answers whoever can make this machine send
// a GET.
func fetchEC2(ctx context.Context, m *Minter) (reply, error) {
	const (
		tokenHeader = "X-Aws-Ec2-Metadata-Token"
		roles       = "/latest/meta-data/iam/security-credentials/"
	)
	token, err := m.ask(ctx, http.MethodPut, m.endpoint+"/latest/api/token", tokenHeader+"-Ttl-Seconds", "60")
	if err != nil {
		return reply{}, err
	}
	list, err := m.ask(ctx, http.MethodGet, m.endpoint+roles, tokenHeader, string(token.body))
	if list.status == http.StatusNotFound {
		return reply{}, m.refuse(broker.KindConfig, nil, "this instance has no role; attach an instance profile to it")
	}
	if err != nil {
		return reply{}, err
	}
	role, _, _ := strings.Cut(strings.TrimSpace(string(list.body)), "\n")
	if role = strings.TrimSpace(role); !isRoleName(role) {
		return reply{}, m.refuse(broker.KindUnavailable, nil, "the endpoint's list of roles is not one")
	}
	return m.ask(ctx, http.MethodGet, m.endpoint+roles+role, tokenHeader, string(token.body))
}

// isRoleName keeps what an endpoint says from becoming another path.
func isRoleName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 128 && strings.TrimFunc(s, func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("+=,.@_-", r)
	}) == ""
}

// reply is what an endpoint sent, and when, by its own clock if it told.
type reply struct {
	status int
	body   []byte
	date   time.Time
}

// ask sends one request with one header, which is left out if it is empty. A
// status other than 200 is an error, too.
func (m *Minter) ask(ctx context.Context, method, url, header, value string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return reply{}, m.refuse(broker.KindConfig, nil, "its endpoint is not an http or https URL")
	}
	if value != "" {
		req.Header.Set(header, value)
	}
	client := http.Client{
		Transport:     m.guard.transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, m.unreachable(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return reply{}, m.unreachable(err)
	}
	if len(body) > maxBody {
		return reply{}, m.refuse(broker.KindUnavailable, nil, "the endpoint's answer is larger than %d KB", maxBody>>10)
	}
	r := reply{status: resp.StatusCode, body: body, date: time.Now().Round(0)}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		r.date = date
	}
	if r.status != http.StatusOK {
		return r, m.badStatus(r)
	}
	return r, nil
}

func (m *Minter) unreachable(err error) error {
	var own *broker.Error
	if errors.As(err, &own) { // the guard's
		return own
	}
	hint := ""
	if m.source == EC2 {
		hint = "; if stsbroker runs in a container, the instance's metadata hop limit must be 2"
	}
	return m.refuse(broker.KindUnavailable, err, "the endpoint cannot be reached%s", hint)
}

func (m *Minter) badStatus(r reply) error {
	kind := broker.KindUnavailable
	switch {
	case r.status == http.StatusTooManyRequests:
		kind = broker.KindThrottled
	case r.status >= 400 && r.status < 500:
		kind = broker.KindDenied
	}
	var a answer
	if json.Unmarshal(r.body, &a) != nil {
		a.Message = string(r.body)
	}
	a.Code = cmp.Or(a.Code, strconv.Itoa(r.status)+" "+http.StatusText(r.status))
	return m.refused(kind, a)
}

// refused words an endpoint's own error: the code for clients, what it says
// about it for the log.
func (m *Minter) refused(kind broker.Kind, a answer) *broker.Error {
	code := printable.Text(a.Code, maxText)
	err := &broker.Error{Kind: kind, Code: code, Public: "credential_source " + m.source + ": the endpoint refused with " + code}
	if text := printable.Text(a.Message, maxText); text != "" {
		err.Cause = errors.New("it said: " + text)
	}
	return err
}
