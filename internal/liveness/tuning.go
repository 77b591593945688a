package liveness

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hashicorp/memberlist"
)

// duration is a time.Duration that JSON has as a text, such as 500ms.
type duration struct{ time.Duration }

// UnmarshalJSON implements json.Unmarshaler.
func (d *duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	d.Duration = v
	return err
}

// tuning is MetalLB's file of memberlist's parameters. What is not there stays as it is:
// MetalLB takes a missing number for 0, though it says otherwise.
type tuning struct {
	TCPTimeout, PushPullInterval, ProbeTimeout, ProbeInterval    *duration
	GossipInterval, GossipToTheDeadTime, QueueCheckInterval      *duration
	IndirectChecks, RetransmitMult, SuspicionMult                *int
	SuspicionMaxTimeoutMult, AwarenessMaxMultiplier, GossipNodes *int
	HandoffQueueDepth, UDPBufferSize                             *int
	DisableTCPPings, GossipVerifyIncoming, GossipVerifyOutgoing  *bool
	EnableCompression                                            *bool
}

// tune sets in c what the file says, if there is one.
func tune(c *memberlist.Config, file string) error {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var t tuning
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil {
		return fmt.Errorf("read parameters of memberlist from %s: %w", file, err)
	}
	for to, from := range map[*time.Duration]*duration{
		&c.TCPTimeout: t.TCPTimeout, &c.PushPullInterval: t.PushPullInterval, &c.ProbeTimeout: t.ProbeTimeout,
		&c.ProbeInterval: t.ProbeInterval, &c.GossipInterval: t.GossipInterval,
		&c.GossipToTheDeadTime: t.GossipToTheDeadTime, &c.QueueCheckInterval: t.QueueCheckInterval,
	} {
		if from != nil {
			*to = from.Duration
		}
	}
	for to, from := range map[*int]*int{
		&c.IndirectChecks: t.IndirectChecks, &c.RetransmitMult: t.RetransmitMult, &c.SuspicionMult: t.SuspicionMult,
		&c.SuspicionMaxTimeoutMult: t.SuspicionMaxTimeoutMult, &c.AwarenessMaxMultiplier: t.AwarenessMaxMultiplier,
		&c.GossipNodes: t.GossipNodes, &c.HandoffQueueDepth: t.HandoffQueueDepth, &c.UDPBufferSize: t.UDPBufferSize,
	} {
		if from != nil {
			*to = *from
		}
	}
	for to, from := range map[*bool]*bool{
		&c.DisableTcpPings: t.DisableTCPPings, &c.GossipVerifyIncoming: t.GossipVerifyIncoming,
		&c.GossipVerifyOutgoing: t.GossipVerifyOutgoing, &c.EnableCompression: t.EnableCompression,
	} {
		if from != nil {
			*to = *from
		}
	}
	return nil
}
