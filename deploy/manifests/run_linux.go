package manifests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
	compose "github.com/compose-spec/compose-go/v2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/stsbroker/stsbroker/deploy/manifests/play"
)

// Image is what a container is made from.
type Image struct {
	Root            string // its file system
	Env             []string
	Entrypoint, Cmd []string
	User            string
	Volumes         map[string]struct{} // what VOLUME names
	Mounts          []play.Mount        // what else it consists of
	Handle          string              // of what buildah has mounted, for [CloseImage]
}

// CloseImage lets go of an image that buildah has, perhaps in another process.
func CloseImage(handle string) error {
	_, err := buildah("rm", handle)
	return err
}

// OpenImage mounts an image that buildah has.
func OpenImage(name string) (img Image, err error) {
	if img.Handle, err = buildah("from", name); err != nil {
		return img, err
	}
	if img.Root, err = buildah("mount", img.Handle); err == nil {
		err = img.readConfig(name)
	}
	if err != nil {
		return img, errors.Join(err, CloseImage(img.Handle))
	}
	return img, nil
}

func (img *Image) readConfig(name string) error {
	text, err := buildah("inspect", "--type", "image", name)
	if err != nil {
		return err
	}
	var is struct {
		OCIv1 struct {
			Config struct {
				User            string
				Env             []string
				Entrypoint, Cmd []string
				Volumes         map[string]struct{}
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(text), &is); err != nil {
		return err
	}
	c := is.OCIv1.Config
	img.User, img.Env, img.Entrypoint, img.Cmd, img.Volumes = c.User, c.Env, c.Entrypoint, c.Cmd, c.Volumes
	return nil
}

func buildah(args ...string) (string, error) {
	cmd := exec.Command("buildah", args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("buildah %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// HostImage stands in for the application's image, which is in a registry: the programs of this
// machine, and those in a folder, such as a Python environment with the AWS CLI. env is
// set in it.
func HostImage(folder string, env ...string) (Image, error) {
	root, err := os.MkdirTemp("", "stsbroker-app")
	img := Image{Root: root, Env: append([]string{"PATH=" + folder + "/bin:/usr/bin:/bin", "HOME=/tmp"}, env...)}
	for _, path := range []string{"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", folder} {
		if _, err := os.Stat(path); err == nil {
			img.Mounts = append(img.Mounts, play.Mount{Source: path, Target: path, ReadOnly: true})
		}
	}
	return img, errors.Join(err, os.Chmod(root, 0o755)) //nolint:gosec // as the root of an image
}

// container is the image, run by a manifest: entrypoint, command and user are the image's
// where the manifest says nothing (nil, nil, "").
func (img Image) container(name string, entrypoint, command []string, user string, env map[string]string, mounts []play.Mount) play.Container {
	c := play.Container{Name: name, Root: img.Root, Env: slices.Clone(img.Env), Mounts: append(slices.Clone(mounts), img.Mounts...)}
	switch {
	case entrypoint != nil:
		c.Args = append(slices.Clone(entrypoint), command...)
	case command != nil:
		c.Args = append(slices.Clone(img.Entrypoint), command...)
	default:
		c.Args = append(slices.Clone(img.Entrypoint), img.Cmd...)
	}
	if user == "" {
		user = img.User
	}
	c.UID, c.GID = ids(user)
	for name, value := range env {
		c.Env = slices.DeleteFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		c.Env = append(c.Env, name+"="+value)
	}
	return c
}

// Kubelet is what a node adds to a pod: its volumes, in a folder.
type Kubelet struct {
	Folder string
	Token  string // of the service account, for the audience that it is asked for
}

// Containers are the broker and the application, with the volumes made as the kubelet makes
// them: an emptyDir in memory is a tmpfs, root's with mode 1777; a ConfigMap is on disk, root's
// with mode 0777, with the links of its atomic writer; both without an fsGroup.
func (l Kubelet) Containers(k Kubernetes, broker, app Image) (b, a play.Container, err error) {
	pod := k.Deployment.Spec.Template.Spec
	for _, v := range pod.Volumes {
		folder := filepath.Join(l.Folder, v.Name)
		switch {
		case v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory:
			err = mountTmpfs(folder, "")
		case v.ConfigMap != nil && v.ConfigMap.Name == k.ConfigMap.Name:
			err = atomicVolume(folder, 0o777, k.ConfigMap.Data)
		case v.Projected != nil:
			if err = mountTmpfs(folder, ""); err == nil {
				err = atomicVolume(folder, fs.ModeSticky|0o777, map[string]string{v.Projected.Sources[0].ServiceAccountToken.Path: l.Token})
			}
		default:
			err = fmt.Errorf("volume %s: not known here", v.Name)
		}
		if err != nil {
			return b, a, err
		}
	}
	made := func(c corev1.Container, img Image) play.Container {
		var mounts []play.Mount
		for _, m := range c.VolumeMounts {
			mounts = append(mounts, play.Mount{Source: filepath.Join(l.Folder, m.Name), Target: m.MountPath, ReadOnly: m.ReadOnly})
		}
		env := map[string]string{}
		for _, e := range c.Env {
			env[e.Name] = e.Value
		}
		return img.container(c.Name, c.Command, c.Args, fmt.Sprintf("%d:%d", *c.SecurityContext.RunAsUser, *c.SecurityContext.RunAsGroup), env, mounts)
	}
	return made(pod.InitContainers[0], broker), made(pod.Containers[0], app), nil
}

// atomicVolume is a volume of files as the kubelet's atomic writer lays it out.
func atomicVolume(folder string, mode fs.FileMode, files map[string]string) error {
	const version = "..2026_01_02_03_04_05.123456789"
	err := errors.Join(os.MkdirAll(filepath.Join(folder, version), 0o755), os.Symlink(version, filepath.Join(folder, "..data")))
	for name, text := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(folder, version, name), []byte(text), 0o644), os.Symlink("..data/"+name, filepath.Join(folder, name))) //nolint:gosec // as the kubelet does
	}
	return errors.Join(err, os.Chmod(folder, mode))
}

func mountTmpfs(folder, options string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // covered
		return err
	}
	args := []string{"-t", "tmpfs"}
	if options != "" {
		args = append(args, "-o", options)
	}
	if out, err := exec.Command("mount", append(args, "tmpfs", folder)...).CombinedOutput(); err != nil {
		return fmt.Errorf("mount %s: %w: %s", folder, err, out)
	}
	return nil
}

// ContainersECS are the broker and the application of a task. Its volumes are folders of
// folder, root's with mode 0755, or as the image has them that names them by VOLUME. The agent
// gives each container the variables in injected, whatever the task definition says.
func ContainersECS(t ecs.RegisterTaskDefinitionInput, broker, app Image, folder string, injected map[string]string) (b, a play.Container, err error) {
	for _, v := range t.Volumes {
		if err := os.MkdirAll(filepath.Join(folder, *v.Name), 0o755); err != nil { //nolint:gosec // as ECS does
			return b, a, err
		}
	}
	var made []play.Container
	for i, img := range []Image{broker, app} {
		c := t.ContainerDefinitions[i]
		var mounts []play.Mount
		if c.LinuxParameters != nil {
			for _, m := range c.LinuxParameters.Tmpfs {
				mounts = append(mounts, play.Mount{Target: *m.ContainerPath})
			}
		}
		for _, m := range c.MountPoints {
			source := filepath.Join(folder, *m.SourceVolume)
			if _, ok := img.Volumes[*m.ContainerPath]; ok {
				if out, err := exec.Command("cp", "-a", "-T", filepath.Join(img.Root, *m.ContainerPath), source).CombinedOutput(); err != nil {
					return b, a, fmt.Errorf("%w: %s", err, out)
				}
			}
			mounts = append(mounts, play.Mount{Source: source, Target: *m.ContainerPath, ReadOnly: m.ReadOnly != nil && *m.ReadOnly})
		}
		env := map[string]string{}
		for _, e := range c.Environment {
			env[*e.Name] = *e.Value
		}
		for name, value := range injected {
			env[name] = value
		}
		made = append(made, img.container(*c.Name, c.EntryPoint, c.Command, *c.User, env, mounts))
	}
	return made[0], made[1], nil
}

// ContainerCompose is a service. Named volumes are folders of folder; those with driver_opts of a tmpfs are mounted
// there the first time. A command takes the service's place.
func ContainerCompose(p *compose.Project, service string, img Image, folder string, command ...string) (play.Container, error) {
	s := p.Services[service]
	var mounts []play.Mount
	for _, path := range s.Tmpfs {
		mounts = append(mounts, play.Mount{Target: path})
	}
	for _, v := range s.Volumes {
		source := v.Source
		if v.Type == compose.VolumeTypeVolume {
			source = filepath.Join(folder, v.Source)
			if _, err := os.Stat(source); errors.Is(err, fs.ErrNotExist) {
				o := p.Volumes[v.Source].DriverOpts
				if o["type"] != "tmpfs" {
					return play.Container{}, fmt.Errorf("volume %s: not known here", v.Source)
				}
				if err := mountTmpfs(source, o["o"]); err != nil {
					return play.Container{}, err
				}
			}
		}
		mounts = append(mounts, play.Mount{Source: source, Target: v.Target, ReadOnly: v.ReadOnly})
	}
	env := map[string]string{}
	for name, v := range s.Environment {
		if v != nil {
			env[name] = *v
		}
	}
	if len(command) == 0 {
		command = s.Command
	}
	return img.container(service, s.Entrypoint, command, s.User, env, mounts), nil
}
