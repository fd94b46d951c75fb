package main

// The voice of the command line:
//
//   - stdout carries the result and nothing else; everything for a person goes to
//     stderr.
//   - A failure is one line that begins "stsbroker: ", says what happened, to
//     which profile, and what to do.
//   - Nobody is greeted, thanked or asked to wait without being told for what.
//   - Colour only where a terminal shows it and NO_COLOR is not set.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

func complain(text string) { fmt.Fprintln(os.Stderr, "stsbroker: "+oneLine(text)) }

func remark(format string, args ...any) { complain(fmt.Sprintf(format, args...)) }

// oneLine keeps text that others chose (file names, STS's words) from breaking
// the line or driving the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '\uFFFD'
		}
		return r
	}, s)
}

// patiently runs f and, on a terminal, says every second what is waited for.
func patiently[T any](ctx context.Context, what string, f func(context.Context) (T, error)) (T, error) {
	if !isTerminal(os.Stderr) {
		return f(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		began := time.Now()
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		shown := false
		for {
			select {
			case <-ticker.C:
				fmt.Fprintf(os.Stderr, "\rstsbroker: waiting for %s, %d s", oneLine(what), int(time.Since(began).Seconds()))
				shown = true
			case <-ctx.Done():
				if shown {
					fmt.Fprint(os.Stderr, "\r\x1b[K")
				}
				return
			}
		}
	}()
	defer func() {
		cancel()
		<-gone
	}()
	return f(ctx)
}

// readSecret reads a line without showing it, on a terminal after a prompt. What stands
// around it is part of it. The terminal is as before when it returns, however it does.
func readSecret(ctx context.Context, prompt string) ([]byte, error) {
	if !isTerminal(os.Stdin) {
		line, err := readLine(ctx, os.Stdin)
		if err == nil && line == "" || errors.Is(err, io.EOF) {
			err = errors.New("nothing was given; it is one line of standard input")
		}
		return []byte(line), err
	}
	fd := int(os.Stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(os.Stderr, oneLine(prompt))
	type result struct {
		line []byte
		err  error
	}
	done := make(chan result, 1)
	go func() { // it stays behind when ctx ends first; then so does this process
		line, err := term.ReadPassword(fd)
		done <- result{line, err}
	}()
	select {
	case got := <-done:
		fmt.Fprintln(os.Stderr)
		if got.err == nil && len(got.line) == 0 {
			got.err = errors.New("nothing was given")
		}
		return got.line, got.err
	case <-ctx.Done():
		fmt.Fprintln(os.Stderr)
		return nil, errors.Join(context.Cause(ctx), term.Restore(fd, before))
	}
}

// confirm asks a person. Where nobody is there to be asked, that is no.
func confirm(ctx context.Context, question string) (bool, error) {
	if !isTerminal(os.Stdin) {
		return false, nil
	}
	fmt.Fprintf(os.Stderr, "%s [y/N] ", oneLine(question))
	answer, err := readLine(ctx, os.Stdin)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes"), err
}

// paint colours text for one stream.
type paint struct{ on bool }

func painter(f *os.File) paint { return paint{isTerminal(f) && os.Getenv("NO_COLOR") == ""} }

func (p paint) as(code, s string) string {
	if !p.on {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p paint) bold(s string) string  { return p.as("1", s) }
func (p paint) dim(s string) string   { return p.as("2", s) }
func (p paint) red(s string) string   { return p.as("31", s) }
func (p paint) green(s string) string { return p.as("32", s) }

// table prints rows in columns that fit their widest cell; the last column is
// as long as it is.
func table(w io.Writer, rows [][]string) {
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for _, r := range rows {
		var line strings.Builder
		for i, c := range r {
			line.WriteString(c)
			if i < len(r)-1 {
				line.WriteString(strings.Repeat(" ", width[i]-len([]rune(c))+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// span is a duration as people say it: 45s, 12m, 1h05m.
func span(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
