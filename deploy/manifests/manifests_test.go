package manifests

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const group = 9171 // whose the token file is, in the examples

// imageUser is the user that the Containerfile gives the image.
func imageUser(t *testing.T) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^USER ([0-9]+):[0-9]+$`).FindSubmatch(read(t, "container/Containerfile"))
	if m == nil {
		t.Fatal("the Containerfile has no USER by number")
	}
	uid, _ := ids(string(m[1]) + ":0")
	return uid
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// judge reads an example, as it is or changed, and says what is wrong with it.
type judge func(t *testing.T, data []byte) ([]string, error)

func judges() map[string]judge {
	return map[string]judge{
		"kubernetes/sidecar.yaml": func(t *testing.T, data []byte) ([]string, error) {
			k, err := ReadKubernetes(data)
			if err != nil {
				return nil, err
			}
			return k.Findings(imageUser(t), group), nil
		},
		"ecs/task-definition.json": func(t *testing.T, data []byte) ([]string, error) {
			d, err := ReadECS(data)
			if err != nil {
				return nil, err
			}
			return FindingsECS(d, imageUser(t), group), nil
		},
		"compose/compose.yaml": func(t *testing.T, data []byte) ([]string, error) {
			path := filepath.Join(t.TempDir(), "compose.yaml")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			p, err := ReadCompose(t.Context(), path, "BROKER_UID=1000", "HOME=/home/me")
			if err != nil {
				return nil, err
			}
			return FindingsCompose(p, group), nil
		},
	}
}

// The examples are what their platforms take, and sidecars as they should be.
func TestExamples(t *testing.T) {
	for name, judge := range judges() {
		t.Run(name, func(t *testing.T) {
			all, err := judge(t, read(t, name))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range all {
				t.Error(f)
			}
		})
	}
}

// What is planted is found: a misspelt key by the types, a mistake by the rules.
func TestExamplesCanFail(t *testing.T) {
	for _, c := range []struct{ file, old, new, want string }{
		{"kubernetes/sidecar.yaml", "startupProbe:", "startUpProbe:", "startUpProbe"},
		{"kubernetes/sidecar.yaml", "restartPolicy: Always", "restartpolicy: Always", "restartpolicy"},
		{"kubernetes/sidecar.yaml", "readOnlyRootFilesystem: true", "readonlyRootFilesystem: true", "readonlyRootFilesystem"},
		{"kubernetes/sidecar.yaml", "emptyDir: { medium: Memory, sizeLimit: 1Mi }", "emptyDir: { Medium: Memory }", "Medium"},
		{"kubernetes/sidecar.yaml", "automountServiceAccountToken: false\n---", "automountServiceAccountToken: false\nrole: x\n---", "role"},
		{"kubernetes/sidecar.yaml", "kind: ConfigMap", "kind: Configmap", "not expected"},
		{"kubernetes/sidecar.yaml", "periodSeconds: 2", "periodSeconds: two", "cannot unmarshal"},
		{"kubernetes/sidecar.yaml", "periodSeconds: 2", "periodSeconds: 2\n            periodSeconds: 3", "already set"},
		{"kubernetes/sidecar.yaml", "restartPolicy: Always", "resizePolicy: []", "stsbroker is no sidecar"},
		{"kubernetes/sidecar.yaml", "exec: { command: [/usr/bin/stsbroker, ready] }", "exec: { command: [stsbroker, status] }", `is asked ["stsbroker" "status"]`},
		{"kubernetes/sidecar.yaml", "runAsUser: 1000", "runAsUser: 9170", "stsbroker and app are one user"},
		{"kubernetes/sidecar.yaml", "runAsUser: 9170", "runAsUser: 65532", "runs as 65532, and the image is made for 9170"},
		{"kubernetes/sidecar.yaml", "runAsGroup: 9171 # whom", "runAsGroup: 9170 # whom", "its group is 9170"},
		{"kubernetes/sidecar.yaml", "emptyDir: { medium: Memory, sizeLimit: 1Mi }", "emptyDir: { sizeLimit: 1Mi }", "no memory of its own at /run"},
		{"kubernetes/sidecar.yaml", "- { name: tokens, mountPath: /tokens, readOnly: true }", "- { name: tokens, mountPath: /tokens }", "to read only"},
		{"kubernetes/sidecar.yaml", "- { name: tokens, mountPath: /tokens, readOnly: true }", "- { name: tokens, mountPath: /tokens, readOnly: true }\n            - { name: state, mountPath: /state }", "no memory of its own at /var/lib"},
		{"kubernetes/sidecar.yaml", "- { name: tokens, mountPath: /tokens, readOnly: true }", "- { name: tokens, mountPath: /tokens, readOnly: true }\n            - { name: identity, mountPath: /identity }", "app: shares /identity with the broker"},
		{"kubernetes/sidecar.yaml", "name: app\n  # Without", "name: app\n  annotations: { eks.amazonaws.com/role-arn: x }\n  # Without", "the service account has a role"},
		{"kubernetes/sidecar.yaml", "skip-containers: app,stsbroker", "skip-containers: stsbroker", "EKS may give app a role"},
		{"kubernetes/sidecar.yaml", "      automountServiceAccountToken: false\n", "", "service account's token"},
		{"kubernetes/sidecar.yaml", "name: AWS_DEFAULT_REGION", "name: AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE comes before the broker"},
		{"kubernetes/sidecar.yaml", "        runAsNonRoot: true\n", "        fsGroup: 9171\n", "every container is in the group"},
		{"kubernetes/sidecar.yaml", "name: AWS_DEFAULT_REGION", "name: AWS_REGION", "differ, and SDKs"},
		{"kubernetes/sidecar.yaml", "        runAsNonRoot: true\n", "", "may run as root"},
		{"kubernetes/sidecar.yaml", "      serviceAccountName: app\n", "      serviceAccountName: app\n      hostNetwork: true\n", "loopback is the node's"},
		{"kubernetes/sidecar.yaml", "capabilities: { drop: [ALL] }", "capabilities: { drop: [NET_RAW] }", "keeps capabilities"},

		{"ecs/task-definition.json", `"readonlyRootFilesystem"`, `"readOnlyRootFilesystem"`, "spells names another way"},
		{"ecs/task-definition.json", `"healthCheck"`, `"healthcheck"`, "spells names another way"},
		{"ecs/task-definition.json", `"family"`, `"Family"`, "spells names another way"},
		{"ecs/task-definition.json", `"dependsOn"`, `"dependOn"`, `unknown field "dependOn"`},
		{"ecs/task-definition.json", `"containerPath": "/run"`, `"containerpath": "/run"`, "spells names another way"},
		{"ecs/task-definition.json", `"retries": 3`, `"retries": "3"`, "cannot unmarshal"},
		{"ecs/task-definition.json", `"executionRoleArn"`, `"executionRole"`, `unknown field "executionRole"`},
		{"ecs/task-definition.json", `"family": "app"`, `"family": ""`, "family is missing"},
		{"ecs/task-definition.json", `"awsvpc"`, `"bridge"`, "share no loopback"},
		{"ecs/task-definition.json", `"entryPoint": ["env", "-u", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],`, "", "keeps AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"},
		{"ecs/task-definition.json", `{ "name": "AWS_REGION", "value": "eu-central-1" }`, `{ "name": "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "value": "" }`, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI comes before the broker"},
		{"ecs/task-definition.json", `"condition": "HEALTHY"`, `"condition": "START"`, "does not wait"},
		{"ecs/task-definition.json", `"volumes": [{ "name": "tokens" }]`, `"volumes": [{ "name": "token" }]`, "cannot write to /tokens"},
		{"ecs/task-definition.json", `"user": "1000:9171"`, `"user": "1000"`, "app: it must run as a user of its own"},
		{"ecs/task-definition.json", `"user": "9170:9171"`, `"user": "1000:9171"`, "are one user"},
		{"ecs/task-definition.json", `"command": ["CMD", "/usr/bin/stsbroker", "ready"]`, `"command": ["CMD-SHELL", "/usr/bin/stsbroker ready"]`, "is asked"},
		{"ecs/task-definition.json", `"networkMode"`, `"pidMode": "task", "networkMode"`, "see each other's processes"},

		{"compose/compose.yaml", "read_only:", "readonly:", "readonly"},
		{"compose/compose.yaml", "healthcheck:", "health_check:", "health_check"},
		{"compose/compose.yaml", "driver_opts:", "driver_options:", "driver_options"},
		{"compose/compose.yaml", "condition: service_healthy", "condition: healthy", "condition"},
		{"compose/compose.yaml", "network_mode: service:stsbroker", "ports: [\"9170:9170\"]", "not in the broker's network"},
		{"compose/compose.yaml", "user: \"65532:9171\"", "user: \"1000:9171\"", "are one user"},
		{"compose/compose.yaml", "mode=1777,", "mode=0777,", "not in memory, root's and sticky"},
		{"compose/compose.yaml", "tmpfs: [/run, /var/lib]", "tmpfs: [/run]", "no memory of its own at /var/lib"},
		{"compose/compose.yaml", "- tokens:/tokens:ro", "- tokens:/tokens", "to read only"},
		{"compose/compose.yaml", "      AWS_EC2_METADATA_DISABLED", "      AWS_PROFILE: dev\n      AWS_EC2_METADATA_DISABLED", "AWS_PROFILE comes before the broker"},
		{"compose/compose.yaml", "${BROKER_UID:?", "${BROKER:?", "BROKER"},
	} {
		t.Run(c.want, func(t *testing.T) {
			data := read(t, c.file)
			if !bytes.Contains(data, []byte(c.old)) {
				t.Fatalf("%s does not hold %q", c.file, c.old)
			}
			all, err := judges()[c.file](t, bytes.ReplaceAll(data, []byte(c.old), []byte(c.new)))
			if err != nil {
				all = append(all, err.Error())
			}
			if !slices.ContainsFunc(all, func(f string) bool { return strings.Contains(f, c.want) }) {
				t.Errorf("%s -> %s: found %q", c.old, c.new, all)
			}
		})
	}
}

// The token file's group is written down four times.
func TestOneGroup(t *testing.T) {
	for _, name := range []string{"kubernetes/sidecar.yaml", "compose/stsbroker.yaml", "ecs/stsbroker.yaml"} {
		if !strings.Contains(string(read(t, name)), fmt.Sprintf("path: %s, profiles: [", wantToken)) || !strings.Contains(string(read(t, name)), fmt.Sprintf("group: %d }", group)) {
			t.Errorf("%s: no token file %s for group %d", name, wantToken, group)
		}
	}
}
