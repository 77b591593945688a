package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/barelb/barelb/lab/box"
)

// patience is how long one part of a bring-up may take: generous, for a busy machine.
const patience = 3 * time.Minute

// waitFor asks until ok returns nil. It gives up when the context ends, after its patience, or when a program that it depends on has ended.
func waitFor(ctx context.Context, what string, ok func() error, needs ...*box.Process) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		for _, p := range needs {
			select {
			case <-p.Done():
				return fmt.Errorf("wait for %s: a program it needs has ended; the end of %s:\n%s", what, p.Log(), tail(p.Log()))
			default:
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last: %w", what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// tail is the last lines of a log.
func tail(path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-12):], nil)
}
