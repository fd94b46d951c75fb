package awssts

import (
	"fmt"
	"slices"
	"strings"
)

// partitions are AWS's: how the names of their regions begin, and a region that
// is always enabled. The SDK's resolver knows their endpoints; a test holds this
// list against its own.
var partitions = []struct{ name, prefix, region string }{
	{"aws-cn", "cn-", "cn-north-1"},
	{"aws-us-gov", "us-gov-", "us-gov-west-1"},
	{"aws-eusc", "eusc-", "eusc-de-east-1"},
	{"aws-iso", "us-iso-", "us-iso-east-1"},
	{"aws-iso-b", "us-isob-", "us-isob-east-1"},
	{"aws-iso-e", "eu-isoe-", "eu-isoe-west-1"},
	{"aws-iso-f", "us-isof-", "us-isof-south-1"},
}

// domains are where AWS's own endpoints are, without and with dual-stack, in the
// order of the SDK's list of partitions (partitions.json).
var domains = []string{
	"amazonaws.com", "api.aws", "amazonaws.com.cn", "api.amazonwebservices.com.cn", "amazonaws.eu", "api.amazonwebservices.eu",
	"c2s.ic.gov", "api.aws.ic.gov", "sc2s.sgov.gov", "api.aws.scloud", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk",
	"csp.hci.ic.gov", "api.aws.hci.ic.gov",
}

// hostOfAWS reports whether an STS of AWS has that name, in a VPC too:
// vpce-ID.sts.REGION.vpce.amazonaws.com. The domain alone does not tell: customers'
// own machines and load balancers have names in it.
func hostOfAWS(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return slices.ContainsFunc(domains, func(d string) bool {
		in, is := strings.CutSuffix(host, "."+d)
		labels := strings.Split(in, ".")
		return is && (slices.Contains(labels, "sts") || slices.Contains(labels, "sts-fips"))
	})
}

// PartitionOf is the partition of a region; what is not known belongs to the
// aws partition, as in SDKs.
func PartitionOf(region string) string {
	for _, p := range partitions {
		if strings.HasPrefix(region, p.prefix) {
			return p.name
		}
	}
	return "aws"
}

// PartitionRegion is the region whose STS endpoint to use for an ARN when
// nothing else names one: a region of the ARN's partition that is always
// enabled. What is no ARN belongs to the aws partition.
func PartitionRegion(arn string) string {
	if parts := strings.SplitN(arn, ":", 3); len(parts) == 3 && parts[0] == "arn" {
		for _, p := range partitions {
			if p.name == parts[1] {
				return p.region
			}
		}
	}
	return "us-east-1"
}

func regionOr(region, arn string) string {
	if region == "" {
		return PartitionRegion(arn)
	}
	return region
}

// AccountOf is the account of an ARN, "" when it names none of 12 digits.
func AccountOf(arn string) string {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 || len(parts[4]) != 12 || strings.Trim(parts[4], "0123456789") != "" {
		return ""
	}
	return parts[4]
}

// Bucket names the budget that STS calls draw on: STS counts calls by account
// and region. An account that is not known until the first answer is better
// replaced by what stands for it, such as the name of the long-term key.
func Bucket(account, region string) string { return account + "/" + region }

// DefaultSessionTemplate is what role sessions are called unless configured.
const DefaultSessionTemplate = "{{.User}}@{{.Host}}"

// SessionName fills in {{.User}} and {{.Host}}, the broker's own, and makes the
// result what STS takes for a RoleSessionName, [\w+=,.@-]{2,64}: other
// characters become "-", and it is cut to 64. The error names what a template
// holds beside these two.
func SessionName(template, user, host string) (string, error) {
	rest := strings.NewReplacer("{{.User}}", "", "{{.Host}}", "").Replace(template)
	if strings.Contains(rest, "{{") || strings.Contains(rest, "}}") {
		return "", fmt.Errorf("session name %q: only {{.User}} and {{.Host}} are known", template)
	}
	name := strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune("+=,.@-", r)) {
			return r
		}
		return '-'
	}, strings.NewReplacer("{{.User}}", user, "{{.Host}}", host).Replace(template))
	name = name[:min(len(name), 64)] // ASCII by now
	if strings.Trim(name, "-@") == "" || len(name) < 2 {
		return "stsbroker", nil
	}
	return name, nil
}
