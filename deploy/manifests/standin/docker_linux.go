// Command standin stands in for docker, of which it knows what the README prints: docker
// build, docker compose up, run and down. It is no Docker: an image is built by buildah, and a container is
// what package play makes of its file system, in the network, with the users, volumes and
// rights that compose.yaml says. The application's image, which is in a registry, is this
// machine's programs instead. It needs root, and is for tests.
//
//	PLAY_FOLDER   where it keeps what runs
//	PLAY_NETWORK  path of the network namespace that containers get
//	PLAY_APP      a folder with bin/aws, for the application's image
//	PLAY_APP_ENV  a variable that image sets: NAME=VALUE
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	compose "github.com/compose-spec/compose-go/v2/types"

	"github.com/stsbroker/stsbroker/deploy/manifests"
	"github.com/stsbroker/stsbroker/deploy/manifests/play"
)

func main() {
	play.Staged()
	err := run(os.Args[1:])
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "docker stand-in:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	line := strings.Join(args, " ")
	folder := os.Getenv("PLAY_FOLDER")
	if folder == "" {
		return errors.New("PLAY_FOLDER is not set")
	}
	switch {
	case len(args) > 1 && args[0] == "build":
		cmd := exec.Command("buildah", append([]string{"bud", "--timestamp", "0", "--format", "docker"}, args[1:]...)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return cmd.Run()
	case line == "compose up --detach --wait stsbroker":
		return up(folder)
	case strings.HasPrefix(line, "compose run --rm app "):
		return application(folder, args[4:])
	case line == "compose down":
		return down(folder)
	}
	return fmt.Errorf("not known here: docker %s", line)
}

func project() (*compose.Project, error) {
	return manifests.ReadCompose(context.Background(), "compose.yaml", os.Environ()...)
}

func network() (play.Network, error) { return play.NetworkAt(os.Getenv("PLAY_NETWORK")) }

func up(folder string) error {
	p, err := project()
	if err != nil {
		return err
	}
	s := p.Services["stsbroker"]
	img, err := manifests.OpenImage(s.Image) // it stays mounted until down
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "stsbroker.image"), []byte(img.Handle), 0o600); err != nil {
		return err
	}
	c, err := manifests.ContainerCompose(p, "stsbroker", img, folder)
	if err != nil {
		return err
	}
	net, err := network()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(folder, "stsbroker.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	r, err := net.Start(c, nil, log, log)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "stsbroker.pid"), []byte(strconv.Itoa(r.PID)), 0o600); err != nil {
		return err
	}
	health := s.HealthCheck
	if health == nil || len(health.Test) < 2 || health.Test[0] != "CMD" {
		return errors.New("no healthcheck that is a command")
	}
	for end := time.Now().Add(time.Duration(*health.StartPeriod)); ; time.Sleep(100 * time.Millisecond) {
		var said strings.Builder
		err := r.Exec(&said, &said, health.Test[1:]...)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("container stsbroker is unhealthy: %w: %s", err, said.String())
		}
	}
}

func application(folder string, command []string) error {
	p, err := project()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(folder, "stsbroker.pid")); err != nil {
		return fmt.Errorf("%s, which app depends on, does not run", "stsbroker")
	}
	var env []string
	if e := os.Getenv("PLAY_APP_ENV"); e != "" {
		env = append(env, e)
	}
	img, err := manifests.HostImage(os.Getenv("PLAY_APP"), env...)
	if err != nil {
		return err
	}
	defer os.Remove(img.Root)
	c, err := manifests.ContainerCompose(p, "app", img, folder, command...)
	if err != nil {
		return err
	}
	net, err := network()
	if err != nil {
		return err
	}
	r, err := net.Start(c, os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	return r.Wait()
}

func down(folder string) error {
	text, err := os.ReadFile(filepath.Join(folder, "stsbroker.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return err
	}
	for range 200 {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			handle, err := os.ReadFile(filepath.Join(folder, "stsbroker.image"))
			return errors.Join(err, os.Remove(filepath.Join(folder, "stsbroker.pid")), manifests.CloseImage(string(handle)))
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("container stsbroker (%d) does not end", pid)
}
