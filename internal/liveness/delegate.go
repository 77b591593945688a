package liveness

import (
	"bytes"
	"context"
	"time"

	"github.com/hashicorp/memberlist"

	core "github.com/barelb/barelb/internal/core/liveness"
)

const (
	// maxDelta in bytes is what fits in a packet beside memberlist's own.
	maxDelta = 1200
	// tellGap is the least time between two rounds of deltas; the first is sent at once.
	tellGap = 10 * time.Millisecond
	// askAgain is the time after which a record that did not come is asked for again,
	// and maxAsked how often it is.
	askAgain = 200 * time.Millisecond
	maxAsked = 5
	// maxJobs bounds what waits to be sent.
	maxJobs = 4096
	// senders is how many connections to send something are open at a time.
	senders = 4
)

// The first byte of a user message of memberlist's. Others are ignored: a later version
// may have them.
const (
	userDelta   = 1 // a delta of the sender's record
	userAsk     = 2 // the sender's name: it wants the record
	userRecord  = 3 // the sender's name and its record
	userMachine = 4 // the sender's name and a message for the machine
)

// meta is what marks a BareLB speaker among memberlist's members; the version follows.
const meta = "BareLB"

// speaksBareLB reports whether a member is a speaker of ours.
func speaksBareLB(n *memberlist.Node) bool { return bytes.HasPrefix(n.Meta, []byte(meta)) }

// delegate is what memberlist calls. No method may block.
type delegate struct{ *Runner }

// NodeMeta implements memberlist.Delegate, as the other methods do.
func (d delegate) NodeMeta(int) []byte { return append([]byte(meta), core.MessageVersion) }

// NotifyMsg takes a message of another speaker.
func (d delegate) NotifyMsg(b []byte) {
	if len(b) == 0 {
		return
	}
	var err error
	kind, b := b[0], b[1:]
	switch kind {
	case userDelta:
		var ask string
		if ask, err = d.book.apply(b); ask != "" {
			d.later(job{to: ask, msg: d.question()})
		}
	case userAsk:
		if from, _, ok := cutText(b); ok {
			d.later(job{to: from})
		}
	case userRecord:
		if from, state, ok := cutText(b); ok {
			err = d.book.merge(state, from)
		}
	case userMachine:
		from, b, ok := cutText(b)
		var m core.Message
		if m, err = core.Parse(b); err != nil || !ok {
			break
		}
		select {
		case d.inbox <- core.Received{From: from, Message: m}:
		default:
			d.metrics.drop(dropFull)
		}
	}
	d.metrics.received(kind)
	if err != nil {
		d.metrics.drop(dropHostile)
		d.cfg.Log.Debug("message of a speaker not understood", "kind", kind, "err", err)
	}
}

// GetBroadcasts has nothing for memberlist's gossip: what we have to say is sent to each.
func (d delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState returns all that is known.
func (d delegate) LocalState(bool) []byte { return d.book.state() }

// MergeRemoteState takes all that another one knows.
func (d delegate) MergeRemoteState(b []byte, _ bool) {
	if err := d.book.merge(b, ""); err != nil {
		d.metrics.drop(dropHostile)
		d.cfg.Log.Debug("state of a speaker not understood", "err", err)
	}
}

// job is something to send; our record if msg is nil.
type job struct {
	to  string
	msg []byte
}

func (r *Runner) later(j job) {
	select {
	case r.jobs <- j:
	default:
		r.metrics.drop(dropFull)
	}
}

// question asks for a record.
func (r *Runner) question() []byte { return appendText([]byte{userAsk}, r.cfg.NodeName) }

// send does jobs until ctx ends.
func (r *Runner) send(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-r.jobs:
			if j.msg == nil {
				j.msg = append(appendText([]byte{userRecord}, r.cfg.NodeName), r.book.ownState()...)
			}
			r.sendTo(r.peers.Load(), j.to, j.msg)
		}
	}
}

// sendTo sends a message to one speaker of ours: a short one at best effort, a long one
// by a connection.
func (r *Runner) sendTo(p *peers, to string, msg []byte) {
	n := p.nodes[to]
	if n == nil || p.list == nil || !speaksBareLB(n) || to == r.cfg.NodeName {
		return
	}
	send := p.list.SendBestEffort
	if len(msg) > maxDelta+1 {
		send = p.list.SendReliable
	}
	if err := send(n, msg); err != nil {
		r.cfg.Log.Debug("message not sent", "node", to, "err", err)
		return
	}
	r.metrics.sent(msg[0])
}

// broadcast sends a short message to each speaker of ours.
func (r *Runner) broadcast(msg []byte) {
	p := r.peers.Load()
	for name := range p.nodes {
		r.sendTo(p, name, msg)
	}
}

// tell tells the others what changed, until ctx ends. Who missed the last delta finds
// out by the heads that follow it.
func (r *Runner) tell(ctx context.Context) {
	again := time.NewTicker(askAgain)
	defer again.Stop()
	heads := 0 // to be sent yet
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			for _, node := range r.book.overdue() {
				r.later(job{to: node, msg: r.question()})
			}
			if heads > 0 {
				heads--
				r.broadcast(append([]byte{userDelta}, r.book.head()...))
			}
		case <-r.book.told:
			r.tellNow()
			heads = 3
			select {
			case <-ctx.Done():
			case <-time.After(tellGap):
			}
		}
	}
}

// tellNow tells the others what they were not told yet.
func (r *Runner) tellNow() {
	for _, d := range r.book.tell() {
		r.broadcast(append([]byte{userDelta}, d...))
	}
}
