//go:build conformance && linux

package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// What make conformance-all installs of clients, pinned: here, in the go.mod,
// package-lock.json, requirements.txt, Cargo.lock and jars.sha256 of the folders
// of clients/. Ruby's SDK and s3fs are Debian's to pin.
const (
	rcloneModule = "github.com/rclone/rclone@v1.75.1"
	// The last one that go install takes: later ones have replace directives.
	terraformModule = "github.com/hashicorp/terraform@v1.8.5"

	mavenCopy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
)

// more are the clients that only make conformance-all installs.
type more struct {
	awscli1, jsv2, gov1, minioGo, s5cmd, rclone, restic, ruby, s3fs, java, terraform, rust piece
}

// more installs them, from the lightest to those that take minutes.
func (in installer) more(node piece) (m more) {
	m.awscli1 = in.python("client-awscli1", "clients/awscli1/requirements.txt", "awscli", nil)
	m.jsv2 = in.npm("client-v2", "clients/jsv2", node, "aws-sdk")
	m.ruby, m.s3fs = in.ruby(), in.s3fs()
	m.gov1 = in.goModule("gov1", ".", "github.com/aws/aws-sdk-go")
	m.minioGo = in.goModule("minio", ".", "github.com/minio/minio-go/v7")
	m.java = in.java()
	m.s5cmd = in.goModule("s5cmd", "github.com/peak/s5cmd/v2", "github.com/peak/s5cmd/v2")
	m.restic = in.goModule("restic", "github.com/restic/restic/cmd/restic", "github.com/restic/restic")
	m.rclone = in.goServer("rclone", rcloneModule)
	m.terraform = in.goServer("terraform", terraformModule)
	m.rust = in.rust()
	return m
}

// goModule builds a program of the module in clients/NAME: its own, or one of a
// module that its go.mod pins. The version is that of the module named.
func (in installer) goModule(name, program, module string) piece {
	src := filepath.Join("clients", name)
	inputs, err := filepath.Glob(filepath.Join(src, "*"))
	if err != nil {
		return piece{err: err}
	}
	dir, err := in.once("client-"+name, inputs, func(dir string) error {
		cmd := in.command(src, "go", "build", "-o", filepath.Join(dir, "list"), program)
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
		return do(cmd)
	})
	if err != nil {
		return piece{err: err}
	}
	mod, err := os.ReadFile(filepath.Join(src, "go.mod"))
	return piece{filepath.Join(dir, "list"), firstMatch(regexp.QuoteMeta(module)+` (v\S+)`, mod), err}
}

// ruby finds Debian's SDK for Ruby, or installs it. The path is the interpreter's.
func (in installer) ruby() piece {
	return in.debian(`(\S+)`, []string{"ruby", "ruby-aws-sdk-s3"}, "ruby", "-e", `require "aws-sdk-s3"; print Aws::S3::GEM_VERSION`)
}

// s3fs finds Debian's s3fs, or installs it. It needs FUSE.
func (in installer) s3fs() piece {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return piece{err: err}
	}
	return in.debian(`V(\S+)`, []string{"s3fs"}, "s3fs", "--version")
}

// debian installs packages if the program that they bring cannot tell its version.
func (in installer) debian(pattern string, packages []string, program string, args ...string) piece {
	version := func() ([]byte, error) { return exec.CommandContext(in.t.Context(), program, args...).Output() }
	out, err := version()
	if err != nil {
		if err = in.apt(packages); err == nil {
			out, err = version()
		}
	}
	return piece{program, firstMatch(pattern, out), err}
}

// java fetches the jars that pom.xml names, holds them against jars.sha256, and
// compiles List.java with them. The path is the folder.
func (in installer) java() piece {
	inputs := []string{"clients/java/pom.xml", "clients/java/jars.sha256", "clients/java/List.java"}
	dir, err := in.once("client-java", inputs, func(dir string) error {
		if missing([]string{"mvn", "javac", "java"}) != nil {
			if err := in.apt([]string{"maven", "openjdk-17-jdk-headless"}); err != nil {
				return err
			}
		}
		src, lib := absolute("clients/java"), filepath.Join(dir, "lib")
		repository := filepath.Join(dir, "repository") // of Maven, for its plugins too
		err := do(
			in.command(dir, "mvn", "-q", "-B", "-f", filepath.Join(src, "pom.xml"), "-Dmaven.repo.local="+repository,
				mavenCopy, "-DincludeScope=runtime", "-DoutputDirectory="+lib),
			in.command(lib, "sha256sum", "--quiet", "--check", "--strict", filepath.Join(src, "jars.sha256")),
			in.command(dir, "javac", "-cp", filepath.Join(lib, "*"), "-d", dir, filepath.Join(src, "List.java")))
		if err != nil {
			return err
		}
		sums, err := os.ReadFile(filepath.Join(src, "jars.sha256"))
		if err != nil {
			return err
		}
		jars, err := filepath.Glob(filepath.Join(lib, "*"))
		if n := strings.Count(string(sums), "\n"); err == nil && n != len(jars) {
			err = fmt.Errorf("%d jars, but jars.sha256 knows %d", len(jars), n)
		}
		if err != nil {
			return err
		}
		return os.RemoveAll(repository)
	})
	if err != nil {
		return piece{err: err}
	}
	pom, err := os.ReadFile("clients/java/pom.xml")
	return piece{dir, firstMatch(`<artifactId>s3</artifactId>\s*<version>([^<]+)`, pom), err}
}

// rust builds the program in clients/rust. Debian 12 has a cargo too old for it.
func (in installer) rust() piece {
	inputs := []string{"clients/rust/Cargo.toml", "clients/rust/Cargo.lock", "clients/rust/src/main.rs"}
	dir, err := in.once("client-rust", inputs, func(dir string) error {
		if err := missing([]string{"cargo"}); err != nil {
			return err
		}
		target := filepath.Join(dir, "target")
		if err := do(in.command("clients/rust", "cargo", "build", "--quiet", "--locked", "--target-dir", target)); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(target, "debug", "list"), filepath.Join(dir, "list")); err != nil {
			return err
		}
		return os.RemoveAll(target)
	})
	if err != nil {
		return piece{err: err}
	}
	manifest, err := os.ReadFile("clients/rust/Cargo.toml")
	return piece{filepath.Join(dir, "list"), firstMatch(`(?m)^aws-sdk-s3 = \{ version = "=([^"]+)`, manifest), err}
}
