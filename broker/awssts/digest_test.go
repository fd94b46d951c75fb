package awssts

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/broker"
)

// changes calls try after each single change of v, a pointer to a struct:
// every exported field at every depth, lists and pointers filled one by one.
func changes(t *testing.T, v reflect.Value, path string, try func(path string)) {
	t.Helper()
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				changes(t, v.Field(i), path+"."+f.Name, try)
			}
		}
	case reflect.Pointer:
		old := reflect.ValueOf(v.Interface())
		v.Set(reflect.New(v.Type().Elem()))
		try(path + " set")
		changes(t, v.Elem(), path, try)
		v.Set(old)
	case reflect.Slice:
		old := reflect.ValueOf(v.Interface())
		for n := range 3 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			try(fmt.Sprintf("%s of %d", path, n))
			if n > 0 {
				changes(t, v.Index(n-1), fmt.Sprintf("%s[%d of %d]", path, n-1, n), try)
			}
		}
		v.Set(old)
	case reflect.String:
		v.SetString("changed")
		try(path + " changed")
		v.SetString("")
	case reflect.Int32, reflect.Int64:
		v.SetInt(123)
		try(path + " changed")
		v.SetInt(0)
	case reflect.Bool:
		v.SetBool(true)
		try(path + " changed")
		v.SetBool(false)
	default:
		t.Fatalf("%s is a %s: teach flatten and this test about it", path, v.Type())
	}
}

func TestDigestCoversEveryFieldOfTheInputs(t *testing.T) {
	for _, in := range []any{
		&sts.GetSessionTokenInput{}, &sts.AssumeRoleInput{}, &sts.AssumeRoleWithWebIdentityInput{},
		&sts.AssumeRoleWithSAMLInput{}, &sts.GetFederationTokenInput{}, &sts.AssumeRootInput{}, &sts.GetDelegatedAccessTokenInput{},
	} {
		t.Run(fmt.Sprintf("%T", in), func(t *testing.T) {
			digest := func() broker.Digest { return digestOf("Action", at, Endpoint{}, in) }
			plain := digest()
			seen := map[broker.Digest]string{plain: "nothing changed"}
			changes(t, reflect.ValueOf(in).Elem(), "", func(path string) {
				d := digest()
				if before, ok := seen[d]; ok {
					t.Errorf("%s and %s have one digest", path, before)
				}
				seen[d] = path
			})
			if digest() != plain {
				t.Error("the digest is not of the values alone")
			}
			if len(seen) <= reflect.TypeOf(in).Elem().NumField()-1 {
				t.Errorf("only %d changes tried", len(seen)-1)
			}
		})
	}
}

// kind is one way to mint: params is a pointer to its parameters.
type kind struct {
	params       any
	minter       func(*STS) broker.Minter
	regionalOnly bool
}

func kindOf[P any](p P, method func(*STS, P) broker.Minter) kind {
	return kind{params: &p, minter: func(s *STS) broker.Minter { return method(s, p) }} // of p as it is by then
}

// allKinds has a line for each method of STS that returns a minter; a test holds
// it against the type.
func allKinds() []kind {
	token := File("token", "/token")
	root := kindOf(Root{}, (*STS).Root)
	root.regionalOnly = true
	return []kind{
		kindOf(Session{}, (*STS).Session), kindOf(Role{}, (*STS).Role), kindOf(Federation{}, (*STS).Federation), root,
		kindOf(WebIdentity{Token: token}, (*STS).WebIdentity), kindOf(SAML{Assertion: token}, (*STS).SAML), kindOf(Delegated{Token: token}, (*STS).Delegated),
	}
}

func TestEveryKindIsListed(t *testing.T) {
	listed, have := len(allKinds()), 0
	for m := range reflect.TypeFor[*STS]().Methods() {
		if m.Type.NumOut() == 1 && m.Type.Out(0) == reflect.TypeFor[broker.Minter]() {
			have++
		}
	}
	if have != listed {
		t.Errorf("STS has %d ways to mint, the tests know %d", have, listed)
	}
}

// each calls try after each single change of a parameter.
func each(t *testing.T, v reflect.Value, path string, try func(path string)) {
	t.Helper()
	for i := range v.NumField() {
		f, path := v.Field(i), path+"."+v.Type().Field(i).Name
		old := reflect.ValueOf(f.Interface())
		set := func(how string, value any) {
			f.Set(reflect.ValueOf(value))
			try(path + how)
		}
		switch f.Interface().(type) {
		case time.Duration:
			set("", 2345*time.Second)
		case string:
			set("", "changed")
		case bool:
			set("", true)
		case []string:
			set(" of one", []string{"a"})
			set(" of two", []string{"a", "b"})
		case map[string]string:
			set(" of one", map[string]string{"a": "b"})
			set(" with another value", map[string]string{"a": "c"})
			set(" with another key", map[string]string{"b": "b"})
		case Site, MFA:
			each(t, f, path, try)
		case []Context:
			set("", []Context{{"arn", File("x", "/a")}})
			set(" of another provider", []Context{{"other", File("x", "/a")}})
			set(" from elsewhere", []Context{{"arn", File("x", "/b")}})
		default:
			if f.Type() != reflect.TypeFor[Source]() {
				t.Fatalf("%s is a %s: teach this test about it", path, f.Type())
			}
			set("", File("x", "/elsewhere"))
		}
		if old.IsValid() {
			f.Set(old)
		} else {
			f.SetZero()
		}
	}
}

func TestDigestCoversEveryParameter(t *testing.T) {
	a, b, compatible := Endpoint{URL: "https://a.example.com"}, Endpoint{URL: "https://b.example.com"}, Endpoint{URL: "https://a.example.com", Compatible: true}
	plain, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[broker.Digest]string{}
	note := func(path string, d broker.Digest) {
		if before, ok := seen[d]; ok {
			t.Errorf("%s and %s have one digest", path, before)
		}
		seen[d] = path
	}
	for _, k := range allKinds() {
		digest := func(s *STS) broker.Digest { return k.minter(s).Digest() }
		if digest(plain) != digest(plain) {
			t.Errorf("%T: equal parameters, two digests", k.params)
		}
		note(fmt.Sprintf("%T", k.params), digest(plain))
		for i, e := range []Endpoint{a, b, compatible} {
			note(fmt.Sprintf("%T at endpoint %d", k.params, i), digest(newSTS(t, Options{Override: &e})))
		}
		each(t, reflect.ValueOf(k.params).Elem(), "", func(path string) {
			if path == ".Site.Legacy" && k.regionalOnly {
				return
			}
			note(fmt.Sprintf("%T%s", k.params, path), digest(plain))
		})
	}
	// What is said by default and what is said outright are one mint.
	if plain.Role(Role{ARN: deploy}).Digest() != plain.Role(Role{ARN: deploy, Site: Site{Region: "us-east-1"}, Duration: time.Hour}).Digest() {
		t.Error("the defaults, written out, are another mint")
	}
	// The same endpoint by region or as override is one place.
	if newSTS(t, Options{Override: &a}).Session(Session{Site: at}).Digest() != newSTS(t, Options{Endpoints: map[string]Endpoint{region: a}}).Session(Session{Site: at}).Digest() {
		t.Error("one endpoint, two digests")
	}
}

func TestNames(t *testing.T) {
	for arn, want := range map[string]string{
		deploy: "us-east-1", "arn:aws-cn:iam::1:role/x": "cn-north-1", "arn:aws-us-gov:iam::1:role/x": "us-gov-west-1", "arn:aws-iso:iam::1:x": "us-iso-east-1",
		"arn:aws-iso-b:iam::1:x": "us-isob-east-1", "arn:aws-iso-e:iam::1:x": "eu-isoe-west-1", "arn:aws-iso-f:iam::1:x": "us-isof-south-1",
		"arn:aws-eusc:iam::1:x": "eusc-de-east-1", "": "us-east-1", "nonsense": "us-east-1", "arn:unknown:iam::1:x": "us-east-1",
	} {
		if got := PartitionRegion(arn); got != want {
			t.Errorf("PartitionRegion(%q) = %s, want %s", arn, got, want)
		}
	}
	for arn, want := range map[string]string{deploy: "123456789012", "arn:aws:iam:::role/x": "", "arn:aws:iam::12345678901x:role/x": "", "123456789012": "", "": ""} {
		if got := AccountOf(arn); got != want {
			t.Errorf("AccountOf(%q) = %q, want %q", arn, got, want)
		}
	}
	if got := Bucket("123456789012", region); got != "123456789012/eu-central-1" {
		t.Error(got)
	}
	for _, c := range [][4]string{
		{DefaultSessionTemplate, "me", "laptop.example.com", "me@laptop.example.com"},
		{DefaultSessionTemplate, `DOMAIN\Jürgen Ü`, "büro_1", "DOMAIN-J-rgen--@b-ro_1"},
		{DefaultSessionTemplate, "", "", "stsbroker"},
		{DefaultSessionTemplate, "me", "here", "me@here"},
		{"{{.Host}}", "me", "", "stsbroker"},
		{"x", "", "", "stsbroker"},
		{"ci-{{.User}}", "a=b,c+d", "", "ci-a=b,c+d"},
		{"{{.User}}", "{{.Host}}", "h", "--.Host--"},
		{DefaultSessionTemplate, "user-with-a-very-long-name-indeed-so-that-it-is-cut", "host.of.some.length.example.com", "user-with-a-very-long-name-indeed-so-that-it-is-cut@host.of.some"},
	} {
		got, err := SessionName(c[0], c[1], c[2])
		if err != nil || got != c[3] {
			t.Errorf("SessionName(%q, %q, %q) = %q, %v; want %q", c[0], c[1], c[2], got, err, c[3])
		}
	}
	for _, bad := range []string{"{{.Caller}}", "{{ .User }}", "{{.User", "a}}"} {
		if got, err := SessionName(bad, "u", "h"); err == nil {
			t.Errorf("SessionName(%q) = %q", bad, got)
		}
	}
}
