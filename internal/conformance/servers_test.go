//go:build conformance && linux

package conformance

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Each server has the bucket with one object, so every right listing prints objectName.
const (
	bucketName = "books"
	objectName = "on-loopback.txt"
)

// Neither server minds the region. The two differ, so that a client that got
// none, or a wrong one, shows.
const (
	rgwRegion   = "us-east-1"
	minioRegion = "eu-west-1"
)

// hour is one in seconds, as STS counts.
const hour = 3600

// keyPair is a long-term key of a server's user.
type keyPair struct{ id, secret string }

func (k keyPair) credentials() aws.Credentials {
	return aws.Credentials{AccessKeyID: k.id, SecretAccessKey: k.secret}
}

// server is an S3 and STS endpoint in one, as both Ceph and MinIO are.
type server struct {
	endpoint string
	region   string
	key      keyPair // of a user who may mint
	role     string  // ARN of a role that the key may assume, lists the bucket
	longRole string  // ARN of one that grants twelve hours
	closed   string  // ARN of a role whose trust policy refuses the key

	webRole   string // ARN of a role for web identities
	webClosed string // ARN of a role whose trust policy refuses them

	ahead time.Duration // how far its clock is moved
}

// newSecret returns a secret access key that can be looked for in logs.
func newSecret() string { return "canary" + rand.Text() + rand.Text()[:8] }

// cluster is a Ceph cluster, which any number of gateways may serve.
type cluster struct {
	dir    string
	server // of its first gateway
}

// startRGW starts a Ceph cluster of one monitor, one OSD in memory and one
// gateway, all without authentication among themselves, and sets up a user, a
// role that trusts it, one that trusts another, and the same for the issuer's
// web identities.
func startRGW(t *testing.T, idp issuer) cluster {
	t.Helper()
	dir, ports := tempDir(t), freePorts(t, 2)
	s := server{
		region:    rgwRegion,
		key:       keyPair{"AKIACONFORMANCE00RGW", newSecret()},
		role:      "arn:aws:iam:::role/deploy",
		longRole:  "arn:aws:iam:::role/long",
		closed:    "arn:aws:iam:::role/closed",
		webRole:   "arn:aws:iam:::role/web",
		webClosed: "arn:aws:iam:::role/web-closed",
	}
	monitor := fmt.Sprintf("[v2:127.0.0.1:%d,v1:127.0.0.1:%d]", ports[0], ports[1])
	writeFile(t, filepath.Join(dir, "ceph.conf"),
		"[global]",
		"fsid = "+newUUID(),
		"mon host = "+monitor,
		"public addr = 127.0.0.1",
		"auth cluster required = none",
		"auth service required = none",
		"auth client required = none",
		"ms mon client mode = crc", // secure mode wants authentication
		"run dir = "+dir,
		"keyring = "+filepath.Join(dir, "keyring"),
		"log file = "+filepath.Join(dir, "$name.log"),
		"mon cluster log file = "+filepath.Join(dir, "cluster.log"),
		"admin socket =", // its default path is the system's
		"pid file =",
		"mon data = "+filepath.Join(dir, "mon"),
		"mon data avail crit = 0",
		"mon data avail warn = 0",
		"mon allow pool size one = true",
		"osd data = "+filepath.Join(dir, "osd"),
		"osd objectstore = memstore",
		"memstore device bytes = 1073741824",
		"osd crush chooseleaf type = 0",
		"osd pool default size = 1",
		"osd pool default min size = 1",
		"osd pool default pg num = 1",
		"osd pool default pgp num = 1",
		"osd pool default pg autoscale mode = off",
		"rgw s3 auth use sts = true",
		"rgw sts key = 0123456789abcdef", // 16 characters, no more, no less
	)
	for _, d := range []string{"mon", "osd"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	env := cleanEnv(dir)
	must := func(argv ...string) {
		t.Helper()
		if r := run(t.Context(), dir, env, argv...); r.err != nil {
			t.Fatalf("%s: %s", strings.Join(argv, " "), r)
		}
	}
	// All programs take the configuration from the folder they run in.
	osd := newUUID()
	must("monmaptool", "-c", "ceph.conf", "--create", "--addv", "a", monitor, "monmap")
	must("ceph-mon", "-c", "ceph.conf", "-i", "a", "--mkfs", "--monmap", "monmap")
	start(t, dir, env, "ceph-mon", "ceph-mon", "-c", "ceph.conf", "-i", "a", "-f")
	must("ceph", "-c", "ceph.conf", "osd", "new", osd)
	must("ceph-osd", "-c", "ceph.conf", "-i", "0", "--mkfs", "--osd-uuid", osd)
	start(t, dir, env, "ceph-osd", "ceph-osd", "-c", "ceph.conf", "-i", "0", "-f")
	c := cluster{dir, s}
	s.endpoint = c.gateway(t, "radosgw")
	c.server = s
	admin := func(args ...string) {
		t.Helper()
		must(append([]string{"radosgw-admin", "-c", "ceph.conf"}, args...)...)
	}

	// Policies are compact JSON: this RGW cannot read others.
	trust := func(user string) string {
		return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["arn:aws:iam:::user/` + user + `"]},"Action":["sts:AssumeRole"]}]}`
	}
	host := strings.TrimPrefix(idp.url, "http://") // what RGW calls the provider
	trustWeb := func(client string) string {
		return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":["arn:aws:iam:::oidc-provider/` + host + `"]},"Action":["sts:AssumeRoleWithWebIdentity"],"Condition":{"StringEquals":{"` + host + `:app_id":"` + client + `"}}}]}`
	}
	const allowS3 = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*","sts:GetSessionToken"],"Resource":["*"]}]}`
	root := keyPair{"AKIACONFORMANCE0ROOT", newSecret()}
	admin("user", "create", "--uid=dev", "--display-name=dev", "--access-key="+s.key.id, "--secret="+s.key.secret)
	admin("user", "create", "--uid=root", "--display-name=root", "--access-key="+root.id, "--secret="+root.secret, "--caps=user-policy=*;roles=*;oidc-provider=*")
	for _, role := range []struct {
		arn, trust string
		most       int // seconds of a session, 12 hours at most
	}{
		{s.role, trust("dev"), hour}, {s.longRole, trust("dev"), 12 * hour}, {s.closed, trust("somebody-else"), hour},
		{s.webRole, trustWeb(clientID), 12 * hour}, {s.webClosed, trustWeb("somebody-else"), hour},
	} {
		name := role.arn[strings.LastIndexByte(role.arn, '/')+1:]
		s.query(t, root.credentials(), "iam", url.Values{"Action": {"CreateRole"}, "RoleName": {name}, "Path": {"/"},
			"AssumeRolePolicyDocument": {role.trust}, "MaxSessionDuration": {fmt.Sprint(role.most)}}).want(t, 200)
		admin("role-policy", "put", "--role-name="+name, "--policy-name=all", "--policy-doc="+allowS3)
	}
	s.query(t, root.credentials(), "iam", url.Values{"Action": {"PutUserPolicy"}, "UserName": {"dev"},
		"PolicyName": {"all"}, "PolicyDocument": {allowS3}}).want(t, 200)
	s.query(t, root.credentials(), "iam", url.Values{"Action": {"CreateOpenIDConnectProvider"}, "Url": {idp.url},
		"ClientIDList.member.1": {clientID}, "ThumbprintList.member.1": {idp.thumbprint}}).want(t, 200)
	s.fillBucket(t, s.key.credentials())
	return c
}

// gateway starts one more gateway, with more in its environment, and returns
// its URL.
func (c cluster) gateway(t *testing.T, name string, env ...string) string {
	t.Helper()
	port := freePorts(t, 1)[0]
	endpoint := fmt.Sprintf("http://127.0.0.1:%d", port)
	start(t, c.dir, cleanEnv(c.dir, env...), name, "radosgw", "-c", "ceph.conf", "-n", "client.rgw", "-f",
		"--rgw-frontends", fmt.Sprintf("beast endpoint=127.0.0.1:%d", port)).
		await(t, 2*time.Minute, answers(endpoint))
	return endpoint
}

// clientID is who the issuer's tokens are for.
const clientID = "conformance"

// issuer is the OpenID Connect issuer.
type issuer struct {
	url        string
	thumbprint string // of the certificate that comes with its keys: SHA-1, in hex
}

// startIssuer starts the OpenID Connect issuer. Its key comes with a
// certificate, without which RGW verifies nothing.
func startIssuer(t *testing.T, k kit) issuer {
	t.Helper()
	dir, port := tempDir(t), freePorts(t, 1)[0]
	key, certificate := newCertificate(t, "issuer")
	n := func(i *big.Int) string { return base64.RawURLEncoding.EncodeToString(i.Bytes()) }
	jwk, err := json.Marshal(map[string]any{"keys": []any{map[string]any{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "conformance", "x5c": []string{base64.StdEncoding.EncodeToString(certificate)},
		"n": n(key.N), "e": n(big.NewInt(int64(key.E))), "d": n(key.D), "p": n(key.Primes[0]), "q": n(key.Primes[1]),
		"dp": n(key.Precomputed.Dp), "dq": n(key.Precomputed.Dq), "qi": n(key.Precomputed.Qinv),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "jwks.json"), string(jwk))
	i := issuer{fmt.Sprintf("http://127.0.0.1:%d", port), fmt.Sprintf("%X", sha1.Sum(certificate))}
	start(t, dir, cleanEnv(dir), "issuer", k.node.path, filepath.Join(k.issuer.path, "issuer.mjs"), fmt.Sprint(port), clientID, "jwks.json").
		await(t, 30*time.Second, answers(i.url+"/.well-known/openid-configuration"))
	return i
}

// newCertificate returns a new key and its certificate, signed by itself.
func newCertificate(t *testing.T, name string) (*rsa.PrivateKey, []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, certificate
}

// startMinIO starts MinIO with its root user as the one who mints, and with
// the issuer trusted for web identities.
//
// MinIO looks at no role ARN in AssumeRole. In AssumeRoleWithWebIdentity it
// takes only its own, which it derives from the issuer's client id.
func startMinIO(t *testing.T, k kit, idp issuer) server {
	t.Helper()
	dir, port := tempDir(t), freePorts(t, 1)[0]
	id := sha1.Sum([]byte(clientID))
	s := server{
		endpoint: fmt.Sprintf("http://127.0.0.1:%d", port),
		region:   minioRegion,
		key:      keyPair{"conformance_root", newSecret()},
		role:     "arn:aws:iam::123456789012:role/any",
		webRole:  "arn:minio:iam:::role/" + base64.RawURLEncoding.EncodeToString(id[:]),
	}
	env := cleanEnv(dir,
		"MINIO_ROOT_USER="+s.key.id,
		"MINIO_ROOT_PASSWORD="+s.key.secret,
		"MINIO_BROWSER=off",
		"MINIO_UPDATE=off",
		"MINIO_IDENTITY_OPENID_CONFIG_URL="+idp.url+"/.well-known/openid-configuration",
		"MINIO_IDENTITY_OPENID_CLIENT_ID="+clientID,
		"MINIO_IDENTITY_OPENID_CLIENT_SECRET=loopback-only",
		"MINIO_IDENTITY_OPENID_ROLE_POLICY=readwrite",
	)
	start(t, dir, env, "minio", k.minio.path, "server", "--address", fmt.Sprintf("127.0.0.1:%d", port), filepath.Join(dir, "data")).
		await(t, 30*time.Second, func() error {
			// Ready means that it knows its users, which is later than that it listens.
			a, err := s.send(t.Context(), s.key.credentials(), "s3", http.MethodGet, "/", "", "")
			if err == nil && a.status != 200 {
				err = fmt.Errorf("status %d: %s", a.status, a.body)
			}
			return err
		})
	s.fillBucket(t, s.key.credentials())
	return s
}

// answer is what a server said.
type answer struct {
	status int
	body   string
}

func readAnswer(resp *http.Response) (answer, error) {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return answer{resp.StatusCode, string(b)}, err
}

// want fails the test unless the answer has the status and holds the words.
func (a answer) want(t *testing.T, status int, words ...string) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	for _, w := range words {
		if !strings.Contains(a.body, w) {
			t.Fatalf("status %d without %q: %s", a.status, w, a.body)
		}
	}
}

// send sends one signed request: the harness asks servers directly, with no
// broker and no SDK client in between.
func (s server) send(ctx context.Context, creds aws.Credentials, service, method, path, contentType, body string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.endpoint+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte(body)))
	r.Header.Set("X-Amz-Content-Sha256", hash)
	if creds.HasKeys() {
		if err := v4.NewSigner().SignHTTP(ctx, creds, r, hash, service, s.region, time.Now().Add(s.ahead)); err != nil {
			return answer{}, err
		}
	}
	resp, err := loopback.Do(r)
	if err != nil {
		return answer{}, err
	}
	return readAnswer(resp)
}

// query calls an STS or IAM action.
func (s server) query(t *testing.T, creds aws.Credentials, service string, params url.Values) answer {
	t.Helper()
	params.Set("Version", map[string]string{"sts": "2011-06-15", "iam": "2010-05-08"}[service])
	a, err := s.send(t.Context(), creds, service, http.MethodPost, "/", "application/x-www-form-urlencoded", params.Encode())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// list lists the bucket, directly.
func (s server) list(t *testing.T, creds aws.Credentials) answer {
	t.Helper()
	a, err := s.send(t.Context(), creds, "s3", http.MethodGet, "/"+bucketName+"?list-type=2", "", "")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (s server) fillBucket(t *testing.T, creds aws.Credentials) {
	t.Helper()
	for _, path := range []string{"/" + bucketName, "/" + bucketName + "/" + objectName} {
		a, err := s.send(t.Context(), creds, "s3", http.MethodPut, path, "", "")
		if err != nil {
			t.Fatal(err)
		}
		a.want(t, 200)
	}
	s.list(t, creds).want(t, 200, objectName)
}

// minted reads the credentials out of an STS answer of any action.
func minted(t *testing.T, a answer) aws.Credentials {
	t.Helper()
	a.want(t, 200)
	type credentials struct {
		AccessKeyId, SecretAccessKey, SessionToken string
		Expiration                                 time.Time
	}
	var c credentials
	for d := xml.NewDecoder(strings.NewReader(a.body)); c.AccessKeyId == ""; {
		token, err := d.Token()
		if err != nil {
			t.Fatalf("no credentials in %s: %v", a.body, err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "Credentials" {
			if err := d.DecodeElement(&c, &e); err != nil {
				t.Fatal(err)
			}
		}
	}
	return aws.Credentials{AccessKeyID: c.AccessKeyId, SecretAccessKey: c.SecretAccessKey,
		SessionToken: c.SessionToken, CanExpire: true, Expires: c.Expiration}
}

// webIdentityToken asks the issuer for a token that lives so many seconds.
func webIdentityToken(ctx context.Context, idp issuer, seconds int) (string, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {"loopback-only"},
		"resource": {fmt.Sprintf("%s/life/%d", idp.url, seconds)}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, idp.url+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := loopback.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&token); err != nil {
		return "", fmt.Errorf("the issuer's answer, %s: %w", resp.Status, err)
	}
	if token.AccessToken == "" {
		return "", fmt.Errorf("no token in the issuer's answer, %s", resp.Status)
	}
	return token.AccessToken, nil
}

// newUUID returns a random UUID.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
