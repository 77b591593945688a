package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// write is a kind of write to the API server.
type write struct{ account, resource string }

// tally is how often something was written, and how often that was refused.
type tally struct{ all, refused int }

// auditEvent is what is needed of an event of the audit log.
type auditEvent struct {
	User struct {
		Username string `json:"username"`
	} `json:"user"`
	Object struct {
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	Response struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// writes counts the load balancer's writes that the audit log has after offset, and
// returns where it ends now.
func (b *bench) writes(offset int64) (map[write]tally, int64, error) {
	f, err := os.Open(b.c.AuditLog())
	if os.IsNotExist(err) { // nobody has written anything
		return map[write]tally{}, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read audit log: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("read audit log: %w", err)
	}
	return count(bufio.NewReader(f), offset)
}

// count counts the events of whole lines.
func count(r *bufio.Reader, offset int64) (map[write]tally, int64, error) {
	out := map[write]tally{}
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF { // the rest of the line is still to come
			return out, offset, nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read audit log: %w", err)
		}
		offset += int64(len(line))
		var e auditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, 0, fmt.Errorf("decode audit log: %w", err)
		}
		w := write{e.User.Username[strings.LastIndexByte(e.User.Username, ':')+1:], e.Object.Resource}
		if e.Object.Subresource != "" {
			w.resource += "/" + e.Object.Subresource
		}
		n := out[w]
		n.all++
		if e.Response.Code >= 400 {
			n.refused++
		}
		out[w] = n
	}
}

const leases = "leases"

// rest waits until nothing but Leases was written for some time.
func (b *bench) rest(ctx context.Context, offset int64) (map[write]tally, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patient)
	defer cancel()
	last := -1
	for {
		all, _, err := b.writes(offset)
		if err != nil {
			return nil, err
		}
		n := 0
		for w, t := range all {
			if w.resource != leases {
				n += t.all
			}
		}
		if n == last {
			return all, nil
		}
		last = n
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the end of writes: %w", ctx.Err())
		case <-time.After(settle):
		}
	}
}

// printWrites prints how often each component has written for n Services.
func (b *bench) printWrites(all map[write]tally, n int, took time.Duration) {
	byName := func(x, y write) int { return strings.Compare(x.account+" "+x.resource, y.account+" "+y.resource) }
	for _, w := range slices.SortedFunc(maps.Keys(all), byName) {
		t := all[w]
		what := fmt.Sprintf("API writes: %s, %s", w.account, w.resource)
		if w.resource == leases {
			_, _ = fmt.Fprintf(b.out, "%-52s %8.2f a second (%d in %.0f s)\n", what, float64(t.all)/took.Seconds(), t.all, took.Seconds())
			continue
		}
		per, of := "a Service", n
		if w.account == "speaker" && !strings.HasPrefix(w.resource, "servicel2") { // each node announces by BGP, one by Layer 2
			per, of = "a Service and node", n*len(b.c.Nodes())
		}
		_, _ = fmt.Fprintf(b.out, "%-52s %8.2f %s (%d", what, float64(t.all)/float64(of), per, t.all)
		if t.refused > 0 {
			_, _ = fmt.Fprintf(b.out, ", %d of them refused", t.refused)
		}
		_, _ = fmt.Fprintln(b.out, ")")
	}
}
