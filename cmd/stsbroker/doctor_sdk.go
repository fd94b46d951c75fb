package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sdkSeen is an SDK that a program here may use.
type sdkSeen struct {
	Name, Version string
	Path          string // of what says so
	Since         string // the first version that reads AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE
	Upgrade       string // a command
}

// old reports whether it does not read token files.
func (k sdkSeen) old() bool { return k.Since != "" && before(k.Version, k.Since) }

// The first versions that read token files, from the EKS user guide, "Use pod identity
// with the AWS SDK", and for Go v2, whose modules have versions of their own, from the
// change log of its config module.
const (
	sinceBoto = "1.34.41"
	sinceCLI1 = "1.30.0"
	sinceCLI2 = "2.15.0"
	sinceJS2  = "2.1550.0"
	sinceJS3  = "3.458.0"
	sinceGo1  = "1.47.11"
	sinceGo2  = "1.25.0"
)

// installedSDKs finds what lies beside the aws and python of the PATH, and what the
// project in folder names. It starts no program.
func installedSDKs(lookup func(string) (string, bool), folder string) (found []sdkSeen) {
	add := func(k sdkSeen) {
		if !slices.ContainsFunc(found, func(f sdkSeen) bool { return f.Name == k.Name && f.Path == k.Path }) {
			found = append(found, k)
		}
	}
	for _, program := range []string{"aws", "python3", "python"} {
		path, err := exec.LookPath(program)
		if err != nil {
			continue
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue
		}
		if program == "aws" {
			if v := versionInPath(real); v != "" {
				add(cli(v, real))
				continue
			}
		}
		prefixes := []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(filepath.Dir(real))}
		if venv, _ := lookup("VIRTUAL_ENV"); venv != "" && program != "aws" {
			prefixes = []string{venv}
		}
		for _, prefix := range prefixes {
			for _, k := range pythonSDKs(prefix) {
				add(k)
			}
		}
	}
	for _, k := range slices.Concat(nodeSDKs(folder), goSDKs(folder)) {
		add(k)
	}
	return found
}

// pythonSDKs reads the names of the folders that pip and Debian leave beside packages.
func pythonSDKs(prefix string) (found []sdkSeen) {
	for _, pattern := range []string{"lib/python3*/site-packages", "lib/python3*/dist-packages"} {
		for _, name := range []string{"botocore", "awscli"} {
			paths, _ := filepath.Glob(filepath.Join(prefix, pattern, name+"-*-info")) // the pattern is good
			for _, path := range paths {                                              // NAME-1.2.3.dist-info, NAME-1.2.3.egg-info, NAME-1.2.3-py3.11.egg-info
				v, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), name+"-"), "-")
				v = strings.TrimSuffix(strings.TrimSuffix(v, ".dist"), ".egg")
				if !isVersion(v) {
					continue
				}
				k := cli(v, path)
				if name == "botocore" {
					k = sdkSeen{"botocore", v, path, sinceBoto, "pip install --upgrade boto3 botocore"}
				}
				if !slices.Contains(found, k) {
					found = append(found, k)
				}
			}
		}
	}
	return found
}

func cli(v, path string) sdkSeen {
	if strings.HasPrefix(v, "1.") {
		return sdkSeen{"AWS CLI", v, path, sinceCLI1, "pip install --upgrade awscli"}
	}
	return sdkSeen{"AWS CLI", v, path, sinceCLI2, "install AWS CLI 2.15.0 or later from https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html"}
}

// versionInPath is the folder under which the AWS CLI's own installer and Homebrew keep
// each version.
func versionInPath(path string) string {
	parts := strings.Split(filepath.ToSlash(path), "/")
	for i, part := range parts {
		if i > 0 && isVersion(part) && (parts[i-1] == "v2" || parts[i-1] == "awscli") {
			return part
		}
	}
	return ""
}

// nodeSDKs reads node_modules of the folder.
func nodeSDKs(folder string) (found []sdkSeen) {
	for _, p := range []struct{ name, since string }{{"aws-sdk", sinceJS2}, {"@aws-sdk/credential-provider-node", sinceJS3}} {
		path := filepath.Join(folder, "node_modules", filepath.FromSlash(p.name), "package.json")
		var says struct{ Version string }
		if f := see(path, 64<<10); f.Err == nil && json.Unmarshal(f.Data, &says) == nil && isVersion(says.Version) {
			upgrade := "npm install aws-sdk@latest"
			if p.since == sinceJS3 {
				upgrade = "npm update"
			}
			found = append(found, sdkSeen{p.name, says.Version, path, p.since, upgrade})
		}
	}
	return found
}

// goSDKs reads go.mod of the folder.
func goSDKs(folder string) (found []sdkSeen) {
	path := filepath.Join(folder, "go.mod")
	f := see(path, 256<<10)
	if f.Err != nil {
		return nil
	}
	for line := range strings.Lines(string(f.Data)) {
		words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(words) < 2 {
			continue
		}
		since := map[string]string{"github.com/aws/aws-sdk-go": sinceGo1, "github.com/aws/aws-sdk-go-v2/config": sinceGo2}[words[0]]
		if v := strings.TrimPrefix(words[1], "v"); since != "" && isVersion(v) {
			found = append(found, sdkSeen{words[0], v, path, since, "go get " + words[0] + "@latest"})
		}
	}
	return found
}

func isVersion(s string) bool { return numbers(s) != nil }

// numbers are the parts of a version such as 2.15.0, nil for what is none. What follows
// a third number is left away: a release candidate counts as the release.
func numbers(s string) []int {
	parts := strings.SplitN(s, ".", 4)
	if len(parts) < 3 {
		return nil
	}
	var out []int
	for _, p := range parts[:3] {
		digits := p[:len(p)-len(strings.TrimLeft(p, "0123456789"))]
		n, err := strconv.Atoi(digits)
		if err != nil {
			return nil
		}
		out = append(out, n)
	}
	return out
}

func before(a, b string) bool { return slices.Compare(numbers(a), numbers(b)) < 0 }
