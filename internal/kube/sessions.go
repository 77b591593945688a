package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
)

// sessionInterval is the least time between two rounds of writes of BGP session
// status. What changes and changes back meanwhile is never written.
const sessionInterval = 3 * time.Second

// noBFD is what a session says of BFD that has none.
const noBFD = "N/A"

// SessionState is how this node's BGP session with one peer is.
type SessionState struct {
	Peer      string // name of the BGPPeer
	Router    string // its address; "" if it is not known
	VRF       string
	BGP       string // the state by its name in RFC 4271
	BFD       string // the state by its name in RFC 5880; "" without BFD
	Since     time.Time
	Message   string
	LocalAddr string
	RouterASN uint32
	RouterID  string
	// HoldTime and Keepalive are those in force while the session is established.
	HoldTime, Keepalive time.Duration
	Families            []lb.Family // carried
	GracefulRestart     bool
	Wanted, Advertised  int // routes
}

// SessionWriter writes the BGPSessionStatus objects of one node. It is never in a hurry.
type SessionWriter struct {
	c        *Cluster
	next     *latest[[]SessionState]
	interval time.Duration
}

// SessionWriter returns a writer of this node's BGP session status. Run it.
func (c *Cluster) SessionWriter() *SessionWriter {
	return &SessionWriter{c: c, next: newLatest[[]SessionState](), interval: sessionInterval}
}

// Set makes all the sessions that this node has. It does not block. Before the first
// Set nothing is written or deleted.
func (w *SessionWriter) Set(all []SessionState) { w.next.set(all) }

// Run writes until ctx ends. What fails is tried again for ever, with growing pauses.
func (w *SessionWriter) Run(ctx context.Context) error {
	w.next.publish(ctx, w.c.opts.Log, "bgp session status", w.interval, nil, w.publish)
	return nil
}

// publish makes the objects of this node say what is.
func (w *SessionWriter) publish(ctx context.Context, all []SessionState) error {
	ctx, cancel := context.WithTimeout(ctx, announcementLimit)
	defer cancel()
	owner, err := w.c.ownPod(ctx)
	if err != nil {
		return err
	}
	var list v1beta1.BGPSessionStatusList
	if err := w.c.background.List(ctx, &list, client.InNamespace(w.c.opts.Namespace),
		client.MatchingLabels{v1beta1.LabelNode: nodeLabel(w.c.opts.NodeName)}); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	have := map[string]*v1beta1.BGPSessionStatus{}
	for i := range list.Items {
		have[list.Items[i].Name] = &list.Items[i]
	}
	var errs []error
	for i := range all {
		want := w.object(&all[i])
		was := have[want.Name]
		delete(have, want.Name)
		if err := w.write(ctx, was, want, owner); err != nil {
			errs = append(errs, fmt.Errorf("session with %s: %w", all[i].Peer, err))
		}
	}
	for _, o := range have {
		if err := w.c.background.Delete(ctx, o); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w", o.Name, err))
		}
	}
	return errors.Join(errs...)
}

// write creates want, or makes was say the same; was may be nil. The API server takes an
// object and its status in two requests only.
func (w *SessionWriter) write(ctx context.Context, was, want *v1beta1.BGPSessionStatus, owner *metav1.OwnerReference) error {
	if was == nil {
		was = want.DeepCopy()
		setOwner(was, owner)
		err := w.c.background.Create(ctx, was)
		if apierrors.IsAlreadyExists(err) { // somebody took its label away
			err = w.c.background.Get(ctx, client.ObjectKeyFromObject(want), was)
		}
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
	}
	moved := setOwner(was, owner)
	for name, value := range want.Labels {
		if was.Labels[name] != value {
			was.Labels, moved = want.Labels, true
		}
	}
	if moved {
		if err := w.c.background.Update(ctx, was); err != nil {
			return fmt.Errorf("update: %w", err)
		}
	}
	if equality.Semantic.DeepEqual(was.Status, want.Status) {
		return nil
	}
	was.Status = want.Status
	if err := w.c.background.Status().Update(ctx, was); err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}

func (w *SessionWriter) object(s *SessionState) *v1beta1.BGPSessionStatus {
	const digits = 20
	sum := sha256.Sum256([]byte(w.c.opts.NodeName + "\n" + s.Peer))
	o := &v1beta1.BGPSessionStatus{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.c.opts.Namespace, Name: "session-" + hex.EncodeToString(sum[:])[:digits],
			Labels: map[string]string{v1beta1.LabelNode: nodeLabel(w.c.opts.NodeName), v1beta1.LabelPeer: nodeLabel(s.Peer)},
		},
		Status: v1beta1.BGPSessionStatusStatus{
			Node: w.c.opts.NodeName, Peer: s.Router, VRF: s.VRF, BGPStatus: s.BGP, BFDStatus: s.BFD, BGPPeer: s.Peer,
			Since: metav1.NewTime(s.Since.Truncate(time.Second)), Message: s.Message, LocalAddress: s.LocalAddr,
			RouterASN: s.RouterASN, RouterID: s.RouterID, GracefulRestart: s.GracefulRestart,
			WantedPrefixes: int32(s.Wanted), AdvertisedPrefixes: int32(s.Advertised),
		},
	}
	if s.BFD == "" {
		o.Status.BFDStatus = noBFD
	}
	if s.LocalAddr != "" { // 0 means something while it is established
		o.Status.HoldTime = &metav1.Duration{Duration: s.HoldTime}
		o.Status.KeepaliveTime = &metav1.Duration{Duration: s.Keepalive}
	}
	for _, f := range s.Families {
		o.Status.AddressFamilies = append(o.Status.AddressFamilies, f.String())
	}
	return o
}
