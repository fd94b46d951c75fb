package awssts

import (
	"fmt"
	"strings"
)

// PartitionRegion is the region whose STS endpoint to use for an ARN when
// nothing else names one: a region of the ARN's partition that is always
// enabled. What is no ARN belongs to the aws partition.
func PartitionRegion(arn string) string {
	if parts := strings.SplitN(arn, ":", 3); len(parts) == 3 && parts[0] == "arn" {
		switch parts[1] {
		case "aws-cn":
			return "cn-north-1"
		case "aws-us-gov":
			return "us-gov-west-1"
		case "aws-eusc":
			return "eusc-de-east-1"
		case "aws-iso":
			return "us-iso-east-1"
		case "aws-iso-b":
			return "us-isob-east-1"
		case "aws-iso-e":
			return "eu-isoe-west-1"
		case "aws-iso-f":
			return "us-isof-south-1"
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
