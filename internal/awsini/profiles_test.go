package awsini

import (
	"fmt"
	"strings"
	"testing"
)

func TestProfiles(t *testing.T) {
	for name, c := range map[string]struct{ config, credentials, want, faults string }{
		"nothing": {},
		"credentials win, key by key": {
			"[profile x]\nregion=a\noutput=json\n", "[x]\nregion=b\n",
			"x C:1: output=json@C:3 region=b@K:2\n", "",
		},
		"only in one": {"[profile a]\n", "[b]\nregion=r\n", "a C:1:\nb K:1: region=r@K:2\n", ""},
		"the pair is one, with its token": {
			"[default]\naws_access_key_id=A\naws_secret_access_key=S\naws_session_token=T\n",
			"[default]\naws_access_key_id=B\naws_secret_access_key=U\naws_session_token=V\n",
			"default C:1: aws_access_key_id=B@K:2 aws_secret_access_key=U@K:3 aws_session_token=V@K:4\n", "",
		},
		"a token without a pair is not merged": {
			"[default]\naws_access_key_id=A\naws_secret_access_key=S\n", "[default]\naws_session_token=V\n",
			"default C:1: aws_access_key_id=A@C:2 aws_secret_access_key=S@C:3\n", "",
		},
		"half a pair never joins the other half": {
			"[default]\naws_access_key_id=A\naws_secret_access_key=S\n", "[default]\naws_access_key_id=B\n",
			"default C:1: aws_access_key_id=A@C:2 aws_secret_access_key=S@C:3 !K:2: aws_access_key_id is here, but aws_secret_access_key is missing from the section: add it, or remove this line\n", "",
		},
		"halves in both files": {
			"[default]\naws_secret_access_key=S\n", "[default]\naws_access_key_id=B\n",
			"default C:1: aws_secret_access_key=S@C:2 !K:2: aws_access_key_id is here, but aws_secret_access_key is missing from the section: add it, or remove this line !C:2: aws_secret_access_key is here, but aws_access_key_id is missing from the section: add it, or remove this line\n", "",
		},
		"[profile default] after [default]": {
			"[default]\nregion=a\n[profile default]\noutput=json\n", "", "default C:3: output=json@C:4\n",
			"C:1: the section is ignored: [profile default] replaces [default]\n",
		},
		"[profile default] before [default]": {
			"[profile default]\noutput=json\n[default]\nregion=a\n", "", "default C:1: output=json@C:2\n",
			"C:3: the section is ignored: [profile default] replaces [default]\n",
		},
		"sections that are no profiles": {
			"[x]\n[sso-session s]\n[services v]\n[plugins]\n[preview]\n[DEFAULT]\n", "[profile y]\n[sso-session s]\n[z]\n", "z K:3:\n",
			"C:1: the section is ignored, as AWS SDKs do: in the config file a profile is written [profile x]\n" +
				"C:6: the section is ignored: the default profile is written [default], in small letters\n" +
				"K:1: the section is ignored, as AWS SDKs do: in the credentials file a profile is written [NAME], without \"profile\"\n" +
				"K:2: the section is ignored, as AWS SDKs do: in the credentials file a profile is written [NAME], without \"sso-session\"\n",
		},
		"lines that cannot be read count for the profile": {
			"[profile x]\nword\n", "[x]\nword\n", "x C:1: !C:2: " + badLine + " !K:2: " + badLine + "\n", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			profiles, faults := Profiles(Parse("C", []byte(c.config)), Parse("K", []byte(c.credentials)))
			var got, gotFaults strings.Builder
			for _, p := range profiles {
				fmt.Fprintf(&got, "%s %s:%d:", p.Name, p.File, p.Line)
				for _, k := range p.Keys() {
					v, _ := p.Get(k)
					fmt.Fprintf(&got, " %s=%s@%v", k, v.Value, v)
				}
				for _, f := range p.Faults {
					fmt.Fprintf(&got, " !%v", f)
				}
				got.WriteByte('\n')
			}
			for _, f := range faults {
				gotFaults.WriteString(f.String() + "\n")
			}
			if got.String() != c.want {
				t.Errorf("got\n%swant\n%s", got.String(), c.want)
			}
			if gotFaults.String() != c.faults {
				t.Errorf("faults: got\n%swant\n%s", gotFaults.String(), c.faults)
			}
		})
	}
	if p, f := Profiles(nil, nil); p != nil || f != nil {
		t.Errorf("of no files: %v, %v", p, f)
	}
}

func TestShown(t *testing.T) {
	hidden := "(a name that is not shown)"
	for in, want := range map[string]string{
		"dev": "dev", "team/dev x": "team/dev x", "a-very-long-name.of_many-parts.which-is-still-a-name": "a-very-long-name.of_many-parts.which-is-still-a-name",
		"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY":   hidden,
		"x wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": hidden,
		strings.Repeat("ab-", 50):                    hidden,
		"a\x1b[0m":                                   hidden,
	} {
		if got := Shown(in); got != want {
			t.Errorf("Shown(%q) = %q, want %q", in, got, want)
		}
	}
}
