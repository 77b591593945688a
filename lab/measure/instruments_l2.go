package measure

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Ask asks for addresses from a host over and over.
type Ask struct{ i *instrument }

// StartAsk starts to ask in the host of r.
func StartAsk(ctx context.Context, r Runner, self string, opts AskOpts) (*Ask, error) {
	i, err := start(ctx, r, argv(self, "ask", &opts), nil)
	if err != nil {
		return nil, err
	}
	return &Ask{i: i}, nil
}

// Mark notes the time; when it returns, the action of that name may begin.
func (a *Ask) Mark(name string) error { return a.i.mark(name) }

// Status returns what is known by now.
func (a *Ask) Status() (AskStatus, error) {
	var s AskStatus
	err := a.i.status(&s)
	return s, err
}

// AwaitAnswers returns once there was an answer for every address since the last mark.
func (a *Ask) AwaitAnswers(ctx context.Context) error {
	return a.await(ctx, func(s AskStatus) bool { return s.Unanswered == 0 })
}

// AwaitTaken returns once for every address somebody else has answered than before the
// last mark.
func (a *Ask) AwaitTaken(ctx context.Context) error {
	return a.await(ctx, func(s AskStatus) bool { return s.Untaken == 0 })
}

// AwaitRequests returns after n more requests.
func (a *Ask) AwaitRequests(ctx context.Context, n int) error {
	begin, err := a.Status()
	if err != nil {
		return err
	}
	return a.await(ctx, func(s AskStatus) bool { return s.Requests >= begin.Requests+n })
}

func (a *Ask) await(ctx context.Context, condition func(AskStatus) bool) error {
	return awaitStatus(ctx, "ask", a.Status, condition)
}

// awaitStatus polls a status until the condition holds.
func awaitStatus[S any](ctx context.Context, what string, status func() (S, error), condition func(S) bool) error {
	const poll = 20 * time.Millisecond
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		s, err := status()
		if err != nil {
			return err
		}
		if condition(s) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("await %s at %+v: %w", what, s, ctx.Err())
		}
	}
}

// Stop ends the asking and returns the report.
func (a *Ask) Stop() (AskReport, error) {
	var r AskReport
	err := a.i.stop(0, &r)
	return r, err
}

// Forget deletes a neighbour entry of a host over and over.
type Forget struct{ i *instrument }

// StartForget starts to delete it in the host of r.
func StartForget(ctx context.Context, r Runner, self string, opts ForgetOpts) (*Forget, error) {
	i, err := start(ctx, r, argv(self, "forget-neigh", &opts), nil)
	if err != nil {
		return nil, err
	}
	return &Forget{i: i}, nil
}

// Stop leaves the entry alone again.
func (f *Forget) Stop() (ForgetReport, error) {
	var r ForgetReport
	err := f.i.stop(0, &r)
	return r, err
}

// Claim claims an address from the host of r, and returns when it has.
func Claim(ctx context.Context, r Runner, self string, opts ClaimOpts) (ClaimReport, error) {
	var report ClaimReport
	err := runOnce(ctx, r, argv(self, "claim", &opts), &report)
	return report, err
}

// Respond answers ARP for somebody else in a host.
type Respond struct{ i *instrument }

// StartRespond starts to answer in the host of r.
func StartRespond(ctx context.Context, r Runner, self string, opts RespondOpts) (*Respond, error) {
	i, err := start(ctx, r, argv(self, "answer-arp", &opts), nil)
	if err != nil {
		return nil, err
	}
	return &Respond{i: i}, nil
}

// Stop ends the answers.
func (a *Respond) Stop() (RespondReport, error) {
	var r RespondReport
	err := a.i.stop(0, &r)
	return r, err
}

// Opening opens new flows from a host, one after the other, until it is stopped.
type Opening struct {
	stop   context.CancelFunc
	done   chan struct{}
	report OpeningReport
	err    error
}

// OpeningReport counts the flows that were opened.
type OpeningReport struct {
	Flows int
	Lost  []LostFlow
}

// StartOpening opens flows from the host of r at opts.Interval, in batches of opts.Count,
// and returns when the first batch has ended. Stop it; the end of ctx is not its end.
func StartOpening(ctx context.Context, r Runner, self string, opts FlowsOpts) *Opening {
	run := context.WithoutCancel(ctx)
	ctx, cancel := context.WithCancel(run)
	o := &Opening{stop: cancel, done: make(chan struct{})}
	begun := make(chan struct{})
	begin := sync.OnceFunc(func() { close(begun) })
	go func() {
		defer close(o.done)
		defer begin()
		for ctx.Err() == nil && o.err == nil {
			var batch FlowsReport
			batch, o.err = RunFlows(run, r, self, opts) // to its end: who is cut off fails
			o.report.Flows += batch.Flows
			o.report.Lost = append(o.report.Lost, batch.Lost...)
			begin()
		}
	}()
	<-begun
	return o
}

// Stop ends the opening with the batch under way, and returns the counts.
func (o *Opening) Stop() (OpeningReport, error) {
	o.stop()
	<-o.done
	return o.report, o.err
}
