// Package manifests reads the examples of deploy strictly, by the types that Kubernetes,
// ECS and Compose have for them, and says what is wrong with them as a sidecar. It is a
// module of its own, so that the broker's needs none of theirs.
package manifests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/compose-spec/compose-go/v2/cli"
	compose "github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	sigsjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Kubernetes is what sidecar.yaml holds.
type Kubernetes struct {
	ServiceAccount corev1.ServiceAccount
	ConfigMap      corev1.ConfigMap
	Deployment     appsv1.Deployment
}

// ReadKubernetes takes one of each kind; a key that a kind does not have is an error, and so is a
// key given twice.
func ReadKubernetes(data []byte) (k Kubernetes, err error) {
	kinds := map[string]any{"v1 ServiceAccount": &k.ServiceAccount, "v1 ConfigMap": &k.ConfigMap, "apps/v1 Deployment": &k.Deployment}
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		var head struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(doc, &head); err != nil {
			return k, err
		}
		kind := head.APIVersion + " " + head.Kind
		to := kinds[kind]
		if to == nil {
			return k, fmt.Errorf("%q is not expected, or there twice", kind)
		}
		delete(kinds, kind)
		text, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			return k, fmt.Errorf("%s: %w", kind, err)
		}
		strict, err := sigsjson.UnmarshalStrict(text, to) // as the API server does, which knows one case of a name
		if err = errors.Join(append(strict, err)...); err != nil {
			return k, fmt.Errorf("%s: %w", kind, err)
		}
	}
	if len(kinds) > 0 {
		return k, fmt.Errorf("missing: %v", kinds)
	}
	return k, nil
}

// ReadECS takes the input of RegisterTaskDefinition, with the names as AWS's JSON has them
// (camelCase; Go takes any case, and the wire does not).
func ReadECS(data []byte) (t ecs.RegisterTaskDefinitionInput, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return t, err
	}
	var plain any
	if err := json.Unmarshal(data, &plain); err != nil {
		return t, err
	}
	if names := wrongNames(plain, reflect.TypeOf(t)); len(names) > 0 {
		return t, fmt.Errorf("AWS spells names another way than these: %v", names)
	}
	return t, nil
}

// wrongNames are the names in v that a value of the type has in another case.
func wrongNames(v any, t reflect.Type) (names []string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			if t.Kind() != reflect.Struct {
				names = append(names, wrongNames(inner, t.Elem())...)
				continue
			}
			if name == "" || name[0] >= 'A' && name[0] <= 'Z' {
				names = append(names, name)
				continue
			}
			f, ok := t.FieldByName(strings.ToUpper(name[:1]) + name[1:])
			if !ok {
				names = append(names, name)
				continue
			}
			names = append(names, wrongNames(inner, f.Type)...)
		}
	case []any:
		for _, inner := range v {
			names = append(names, wrongNames(inner, t.Elem())...)
		}
	}
	return names
}

// ReadCompose takes a file by the schema of Compose, with the variables.
func ReadCompose(ctx context.Context, path string, variables ...string) (*compose.Project, error) {
	o, err := cli.NewProjectOptions([]string{path}, cli.WithName("sidecar"), cli.WithEnv(variables))
	if err != nil {
		return nil, err
	}
	return o.LoadProject(ctx)
}

// What a sidecar has to be, whatever it is written in.

// part is a container as all three have it.
type part struct {
	name     string
	command  []string // nil: the image's own
	env      map[string]string
	uid, gid int // -1: not said
	readOnly bool
	dropped  bool // all capabilities
	mounts   map[string]volume
	ready    []string // the command that says whether it is ready
}

type volume struct {
	name     string
	readOnly bool
	memory   bool
	shared   bool // several containers may have it
}

// What the application is told.
const (
	fullURI   = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	tokenFile = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"

	wantURI   = "http://127.0.0.1:9170/credentials"
	wantToken = "/tokens/app"
	readyWord = "/usr/bin/stsbroker ready"
)

// before are the variables that some SDK takes before the two, or beside them; see
// docs/doors.md. An empty one counts too, to botocore.
var before = []string{
	"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
	"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE",
}

// findings says what is wrong with a broker and its application, in a pod whose image's
// user is uid and whose token file is for group.
func findings(broker, app part, uid, group int) (all []string) {
	say := func(bad bool, format string, args ...any) {
		if bad {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	for _, p := range []part{broker, app} {
		say(p.uid <= 0, "%s: it must run as a user of its own, not as %d", p.name, p.uid)
		say(p.gid != group, "%s: its group is %d, and the token file's %d", p.name, p.gid, group)
		say(!p.readOnly, "%s: its root file system can be written to", p.name)
		say(!p.dropped, "%s: it keeps capabilities", p.name)
	}
	say(uid >= 0 && broker.uid != uid, "%s: runs as %d, and the image is made for %d", broker.name, broker.uid, uid)
	say(broker.uid == app.uid, "%s and %s are one user", broker.name, app.name)
	say(broker.command != nil, "%s: has a command of its own: %q", broker.name, broker.command)
	say(strings.Join(broker.ready, " ") != readyWord, "%s: is asked %q, not %q", broker.name, broker.ready, readyWord)
	for _, where := range []string{"/run", "/var/lib"} {
		v := broker.mounts[where]
		say(!v.memory || v.readOnly || v.shared, "%s: no memory of its own at %s", broker.name, where)
	}
	tokens := broker.mounts["/tokens"]
	say(tokens.name == "" || tokens.readOnly, "%s: cannot write to /tokens", broker.name)
	theirs := app.mounts["/tokens"]
	say(theirs.name != tokens.name || !theirs.readOnly, "%s: has not the broker's /tokens, to read only", app.name)
	for where, v := range app.mounts {
		other := broker.mounts[where]
		say(where != "/tokens" && v.shared && (v.name == other.name || v.name == tokens.name), "%s: shares %s with the broker", app.name, where)
	}
	say(app.env[fullURI] != wantURI, "%s: %s is %q", app.name, fullURI, app.env[fullURI])
	say(app.env[tokenFile] != wantToken, "%s: %s is %q", app.name, tokenFile, app.env[tokenFile])
	say(app.env["AWS_REGION"] == "" || app.env["AWS_DEFAULT_REGION"] != app.env["AWS_REGION"], "%s: AWS_REGION and AWS_DEFAULT_REGION differ, and SDKs in which they read", app.name)
	say(app.env["AWS_EC2_METADATA_DISABLED"] != "true", "%s: may ask the machine for its role", app.name)
	for _, name := range before {
		_, there := app.env[name]
		say(there, "%s: %s comes before the broker", app.name, name)
	}
	for _, name := range []string{fullURI, tokenFile} {
		_, there := broker.env[name]
		say(there, "%s: %s leads it to itself", broker.name, name)
	}
	return all
}

// Findings says what is wrong with it as a sidecar; uid is the image's.
func (k Kubernetes) Findings(uid, group int) (all []string) {
	say := func(bad bool, format string, args ...any) {
		if bad {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	pod := k.Deployment.Spec.Template.Spec
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 {
		return []string{"want one init container, the broker, and one container"}
	}
	b, a := pod.InitContainers[0], pod.Containers[0]
	say(b.RestartPolicy == nil || *b.RestartPolicy != corev1.ContainerRestartPolicyAlways, "%s is no sidecar", b.Name)
	for name, probe := range map[string]*corev1.Probe{"startupProbe": b.StartupProbe, "readinessProbe": b.ReadinessProbe} {
		say(probe == nil || probe.Exec == nil || strings.Join(probe.Exec.Command, " ") != readyWord, "%s: its %s is not %s", b.Name, name, readyWord)
	}
	say(b.LivenessProbe != nil, "%s: a livenessProbe would restart it, and what it holds would be gone", b.Name)
	say(pod.HostNetwork, "the pod's loopback is the node's")
	say(pod.ShareProcessNamespace != nil && *pod.ShareProcessNamespace, "the containers see each other's processes")
	for _, m := range []*bool{pod.AutomountServiceAccountToken, k.ServiceAccount.AutomountServiceAccountToken} {
		say(m == nil || *m, "the application gets the service account's token")
	}
	say(pod.ServiceAccountName != k.ServiceAccount.Name, "the service account is another's: %q", pod.ServiceAccountName)
	_, role := k.ServiceAccount.Annotations["eks.amazonaws.com/role-arn"]
	say(role, "the service account has a role, which EKS gives to every container")
	skipped := strings.Split(k.Deployment.Spec.Template.Annotations["eks.amazonaws.com/skip-containers"], ",")
	say(!slices.Contains(skipped, a.Name), "EKS may give %s a role", a.Name)
	s := pod.SecurityContext
	say(s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot, "the pod may run as root")
	say(s == nil || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault, "no seccomp profile")
	say(s != nil && (s.FSGroup != nil || len(s.SupplementalGroups) > 0), "every container is in the group of the token file")
	for _, c := range []corev1.Container{b, a} {
		say(len(c.Ports) > 0 && c.Name == b.Name, "%s: announces ports, and listens on loopback alone", c.Name)
		say(c.SecurityContext == nil || c.SecurityContext.AllowPrivilegeEscalation == nil || *c.SecurityContext.AllowPrivilegeEscalation, "%s: may gain privileges", c.Name)
	}
	_, there := k.ConfigMap.Data["stsbroker.yaml"]
	say(!there, "the ConfigMap has no stsbroker.yaml")
	return append(all, findings(k.part(b, true), k.part(a, false), uid, group)...)
}

func (k Kubernetes) part(c corev1.Container, broker bool) part {
	p := part{name: c.Name, uid: -1, gid: -1, env: map[string]string{}, mounts: map[string]volume{}}
	if broker {
		p.command = append(c.Command, c.Args...)
	}
	if c.StartupProbe != nil && c.StartupProbe.Exec != nil {
		p.ready = c.StartupProbe.Exec.Command
	}
	if s := c.SecurityContext; s != nil {
		p.readOnly = s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem
		p.dropped = s.Capabilities != nil && slices.Contains(s.Capabilities.Drop, "ALL") && len(s.Capabilities.Add) == 0
		if s.RunAsUser != nil {
			p.uid = int(*s.RunAsUser)
		}
		if s.RunAsGroup != nil {
			p.gid = int(*s.RunAsGroup)
		}
	}
	for _, e := range c.Env {
		p.env[e.Name] = e.Value
	}
	pod := k.Deployment.Spec.Template.Spec
	for _, m := range c.VolumeMounts {
		v := volume{name: m.Name, readOnly: m.ReadOnly}
		for _, o := range append(slices.Clone(pod.InitContainers), pod.Containers...) {
			v.shared = v.shared || o.Name != c.Name && slices.ContainsFunc(o.VolumeMounts, func(n corev1.VolumeMount) bool { return n.Name == m.Name })
		}
		for _, d := range pod.Volumes {
			v.memory = v.memory || d.Name == m.Name && d.EmptyDir != nil && d.EmptyDir.Medium == corev1.StorageMediumMemory
		}
		p.mounts[m.MountPath] = v
	}
	return p
}

// FindingsECS is Findings for a task definition.
func FindingsECS(t ecs.RegisterTaskDefinitionInput, uid, group int) (all []string) {
	say := func(bad bool, format string, args ...any) {
		if bad {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	// What RegisterTaskDefinition requires, and Fargate beside that.
	for name, v := range map[string]*string{"family": t.Family, "cpu": t.Cpu, "memory": t.Memory, "executionRoleArn": t.ExecutionRoleArn, "taskRoleArn": t.TaskRoleArn} {
		say(v == nil || *v == "", "%s is missing", name)
	}
	say(t.NetworkMode != ecstypes.NetworkModeAwsvpc, "the containers share no loopback in network mode %q", t.NetworkMode)
	say(t.PidMode != "", "the containers see each other's processes")
	if len(t.ContainerDefinitions) != 2 {
		return append(all, "want two containers, the broker first")
	}
	b, a := t.ContainerDefinitions[0], t.ContainerDefinitions[1]
	for _, c := range t.ContainerDefinitions {
		say(c.Name == nil || c.Image == nil, "a container without name or image")
		say(len(c.PortMappings) > 0 && *c.Name == *b.Name, "%s: publishes ports, and listens on loopback alone", *c.Name)
	}
	say(b.Essential == nil || !*b.Essential, "the task goes on without %s", *b.Name)
	waits := slices.ContainsFunc(a.DependsOn, func(d ecstypes.ContainerDependency) bool {
		return d.ContainerName != nil && *d.ContainerName == *b.Name && d.Condition == ecstypes.ContainerConditionHealthy
	})
	say(!waits, "%s does not wait for %s", *a.Name, *b.Name)
	// The agent gives the task's role to every container of the task, and by a variable that
	// a task definition cannot take away.
	say(strings.Join(a.EntryPoint, " ") != "env -u AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "%s keeps AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: %q", *a.Name, a.EntryPoint)
	return append(all, findings(partECS(t, b, true), partECS(t, a, false), uid, group)...)
}

func partECS(t ecs.RegisterTaskDefinitionInput, c ecstypes.ContainerDefinition, broker bool) part {
	p := part{name: *c.Name, env: map[string]string{}, mounts: map[string]volume{}}
	if broker {
		p.command = append(c.EntryPoint, c.Command...)
	}
	if c.HealthCheck != nil && len(c.HealthCheck.Command) > 0 && c.HealthCheck.Command[0] == "CMD" {
		p.ready = c.HealthCheck.Command[1:]
	}
	if c.User != nil {
		p.uid, p.gid = ids(*c.User)
	}
	p.readOnly = c.ReadonlyRootFilesystem != nil && *c.ReadonlyRootFilesystem
	if l := c.LinuxParameters; l != nil {
		p.dropped = l.Capabilities != nil && slices.Equal(l.Capabilities.Drop, []string{"ALL"}) && len(l.Capabilities.Add) == 0
		for _, m := range l.Tmpfs {
			if m.ContainerPath != nil && m.Size > 0 {
				p.mounts[*m.ContainerPath] = volume{name: *m.ContainerPath, memory: true}
			}
		}
	}
	for _, e := range c.Environment {
		p.env[*e.Name] = *e.Value
	}
	for _, m := range c.MountPoints {
		known := slices.ContainsFunc(t.Volumes, func(v ecstypes.Volume) bool { return v.Name != nil && *v.Name == *m.SourceVolume })
		if known {
			p.mounts[*m.ContainerPath] = volume{name: *m.SourceVolume, readOnly: m.ReadOnly != nil && *m.ReadOnly, shared: true}
		}
	}
	return p
}

// FindingsCompose is Findings for a file of Compose. Its broker is the person's own user.
func FindingsCompose(project *compose.Project, group int) (all []string) {
	say := func(bad bool, format string, args ...any) {
		if bad {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	b, ok := project.Services["stsbroker"]
	a, ok2 := project.Services["app"]
	if !ok || !ok2 || len(project.Services) != 2 {
		return []string{"want the services stsbroker and app"}
	}
	say(a.NetworkMode != "service:stsbroker", "app is not in the broker's network: %q", a.NetworkMode)
	say(len(b.Ports) > 0 || len(a.Ports) > 0, "ports are published")
	say(a.DependsOn["stsbroker"].Condition != compose.ServiceConditionHealthy, "app does not wait for the broker")
	for _, s := range []compose.ServiceConfig{a, b} {
		say(!slices.Contains(s.SecurityOpt, "no-new-privileges:true"), "%s: may gain privileges", s.Name)
		say(s.Pid != "" || s.Privileged || len(s.CapAdd) > 0, "%s: sees or may more than it should", s.Name)
	}
	tokens := project.Volumes["tokens"]
	say(tokens.DriverOpts["type"] != "tmpfs" || !slices.Contains(strings.Split(tokens.DriverOpts["o"], ","), "mode=1777"), "tokens is not in memory, root's and sticky")
	return append(all, findings(partCompose(b, true), partCompose(a, false), -1, group)...)
}

func partCompose(s compose.ServiceConfig, broker bool) part {
	p := part{name: s.Name, env: map[string]string{}, mounts: map[string]volume{}}
	if broker {
		p.command = append(s.Entrypoint, s.Command...)
	}
	if s.HealthCheck != nil && len(s.HealthCheck.Test) > 0 && s.HealthCheck.Test[0] == "CMD" {
		p.ready = s.HealthCheck.Test[1:]
	}
	p.uid, p.gid = ids(s.User)
	p.readOnly, p.dropped = s.ReadOnly, slices.Equal(s.CapDrop, []string{"ALL"})
	for name, v := range s.Environment {
		if v != nil {
			p.env[name] = *v
		}
	}
	for _, path := range s.Tmpfs {
		p.mounts[path] = volume{name: path, memory: true}
	}
	for _, v := range s.Volumes {
		p.mounts[v.Target] = volume{name: v.Source, readOnly: v.ReadOnly, shared: true}
	}
	return p
}

// ids reads "UID:GID".
func ids(user string) (uid, gid int) {
	u, g, _ := strings.Cut(user, ":")
	uid, err := strconv.Atoi(u)
	gid, err2 := strconv.Atoi(g)
	if errors.Join(err, err2) != nil {
		return -1, -1
	}
	return uid, gid
}
