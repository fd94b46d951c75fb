// Command day is an AWS SDK for Go whose credentials are asked for once a
// simulated minute, as by a program that makes a call a minute.
//
// It prints {} when it is ready. Then each line of its input is how far the clock
// is ahead, in seconds; each line of its output is what the SDK then said, as JSON:
//
//	{"now": UNIX_SECONDS, "key": "ACCESS_KEY_ID", "requests": N, "error": ""}
//
// now is the SDK's own clock, requests is how many HTTP requests it made since
// the line before. One source is built against two sets of modules, those of
// go.mod and those of old.mod, and in each against version 2 of the SDK, or
// with -tags v1 against version 1.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

type line struct {
	Now      int64  `json:"now"`
	Key      string `json:"key"`
	Requests int64  `json:"requests"`
	Error    string `json:"error"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "day:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: day chain|container")
	}
	ctx := context.Background()
	var requests atomic.Int64
	key, err := keys(ctx, args[0], &requests)
	if err != nil {
		return err
	}
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	if err := out.Encode(struct{}{}); err != nil {
		return err
	}
	for in.Scan() {
		ahead, err := strconv.ParseInt(in.Text(), 10, 64)
		if err != nil {
			return err
		}
		if err := setClock(ahead); err != nil {
			return err
		}
		bounded, cancel := context.WithTimeout(ctx, 20*time.Second)
		var l line
		if l.Key, err = key(bounded); err != nil {
			l.Error = err.Error()
		}
		cancel()
		l.Now, l.Requests = time.Now().Unix(), requests.Swap(0)
		if err := out.Encode(l); err != nil {
			return err
		}
	}
	return in.Err()
}
