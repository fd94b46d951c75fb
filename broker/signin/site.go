package signin

import (
	"fmt"
	"strings"
)

// Site is where a partition signs people in to its console.
type Site struct {
	Endpoint string // of federation: takes getSigninToken, and the login
	Console  string // where the console of the region begins, without a slash at the end; "" where AWS does not publish it
}

// partitions are the hosts of AWS's partitions; "*" is the region.
//
// The consoles and the first three sign-in hosts are in AWS's General Reference
// and IAM user guide, that of aws-eusc in the European Sovereign Cloud's own
// General Reference. Sign-in hosts of the isolated partitions are those of the
// endpoint rules of the signin service in AWS's SDKs; of their consoles no
// address is published.
var partitions = map[string]struct{ signin, console string }{
	"aws":        {"signin.aws.amazon.com", "*.console.aws.amazon.com"},
	"aws-cn":     {"signin.amazonaws.cn", "*.console.amazonaws.cn"},
	"aws-us-gov": {"signin.amazonaws-us-gov.com", "*.console.amazonaws-us-gov.com"},
	"aws-eusc":   {"*.signin.amazonaws-eusc.eu", "*.console.amazonaws-eusc.eu"},
	"aws-iso":    {"*.signin.c2shome.ic.gov", ""},
	"aws-iso-b":  {"*.signin.sc2shome.sgov.gov", ""},
	"aws-iso-e":  {"*.signin.csphome.adc-e.uk", ""},
	"aws-iso-f":  {"*.signin.csphome.hci.ic.gov", ""},
}

// SiteOf is the site of a partition, for a region of it. The error is for what is
// neither: credentials go nowhere on a name that could be read as another host.
func SiteOf(partition, region string) (Site, error) {
	hosts, ok := partitions[partition]
	if !ok {
		return Site{}, fmt.Errorf("where partition %q signs people in is not known", partition)
	}
	if region == "" || strings.Trim(region, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return Site{}, fmt.Errorf("%q is not the name of a region", region)
	}
	s := Site{Endpoint: "https://" + strings.Replace(hosts.signin, "*", region, 1) + "/federation"}
	if hosts.console != "" {
		s.Console = "https://" + strings.Replace(hosts.console, "*", region, 1)
	}
	return s, nil
}

// Page is the address of a service's console in a region, such as "ec2", or of
// the console's home for "". It is "" where the console's address is not known.
func (s Site) Page(service, region string) string {
	if s.Console == "" {
		return ""
	}
	if service == "" {
		service = "console"
	}
	return s.Console + "/" + service + "/home?region=" + region
}
