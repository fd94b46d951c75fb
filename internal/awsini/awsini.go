// Package awsini reads the syntax of the AWS shared files, config and
// credentials: sections, keys and values, each with its file and line. What
// the keys mean is the business of its callers.
//
// AWS publishes no grammar; the two readers that most programs use differ. The
// package follows the AWS SDK for Go v2 (config/internal/ini), and says in a
// [Fault] where boto3 and the AWS CLI (Python's configparser) would see
// something else:
//
//   - keys are case-insensitive; "=" or ":", whichever comes first, separates;
//     one pair of quotes around a value is taken off
//   - "#" or ";" after a blank begins a comment, anywhere in a header too
//   - a key or section that comes twice: the keys are merged and the last value
//     counts (configparser refuses the whole file)
//   - an indented line under a key without a value is a nested property; under
//     a key with a value it is a property of the section if it has a separator,
//     else the value goes on
//
// It differs from that SDK on purpose where the SDK would silently take
// something for what it is not: after a broken header, lines belong to no
// section (the SDK gives them to the section before); a byte order mark is
// dropped (the SDK loses the first section); a lone quote is a value (the SDK
// panics); quotes around a section's name are taken off, as the AWS CLI does.
//
// No fault ever quotes a line: what cannot be read may be a secret.
package awsini

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// MaxSize is the largest file that is read, in bytes.
const MaxSize = 1 << 20

// How many faults are kept of a file, and of a section: enough to mend by.
const (
	maxFileFaults    = 100
	maxSectionFaults = 10
)

// The kinds of section that have a type before their name.
const (
	TypeProfile    = "profile"
	TypeSSOSession = "sso-session"
	TypeServices   = "services"
)

// File is one shared file, read as far as it could be.
type File struct {
	Path     string
	Info     fs.FileInfo // of the file as it was read; nil from [Parse]
	Sections []Section   // each type and name once, in the order of their first headers
	Faults   []Fault     // what belongs to no section or disables nothing
}

// Section is everything that stands under headers of one type and name.
type Section struct {
	Type       string // [TypeProfile], [TypeSSOSession], [TypeServices], or "" for a bare name
	Name       string // without quotes; blanks inside as they stand
	Line       int    // of its first header
	Properties []Property
	Faults     []Fault // lines under its headers that cannot be read
}

// Property is one key and its value. It prints as its place, never its value.
type Property struct {
	Key    string // lower case
	Value  string // without quotes and comment; lines of a continued value are joined by "\n"
	Raw    string // the same with its quotes
	File   string
	Line   int
	Header int        // line of the header above it
	Nested []Property // indented keys under a key without a value
}

// Place is "FILE:LINE".
func (p Property) Place() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// Format implements fmt.Formatter, so that no verb prints a value.
func (p Property) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, p.Place()) }

// Fault is something in a file that a person should mend.
type Fault struct {
	File    string
	Line    int // 0 for the file as a whole
	Message string
}

// String is "FILE:LINE: message".
func (f Fault) String() string {
	if f.Line == 0 {
		return f.File + ": " + f.Message
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Message)
}

// Read reads a file. The error wraps [fs.ErrNotExist] for a missing one; a
// folder, a device or a file larger than [MaxSize] is an error too. The null
// device is an empty file: people name it to switch a shared file off.
//
// An error never stands for what the file says: that is in Faults.
func Read(path string) (*File, error) {
	if path == os.DevNull {
		return &File{Path: path}, nil
	}
	// O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errNotRegular}
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxSize {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errTooLarge}
	}
	file := Parse(path, data)
	file.Info = info
	return file, nil
}

var (
	errNotRegular = errors.New("not a regular file")
	errTooLarge   = errors.New("larger than 1 MiB")
)
