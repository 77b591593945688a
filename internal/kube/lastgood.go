package kube

import (
	"bytes"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// The last good version of an object is kept in its own status: who may write the
// object may not write that, it goes with the object, and no other right is needed to
// read it. See docs/status.md.

// keepGood notes the version of o as the one to keep, and reports whether it was another
// before. Pools and communities are not kept.
func keepGood(o client.Object, s *config.Status) (bool, error) {
	switch o := o.(type) {
	case *v1beta1.L2Advertisement:
		return keepSpec(&o.Status.LastGood, s.Generation, o.Spec)
	case *v1beta1.BGPAdvertisement:
		spec := o.Spec
		spec.Communities = s.Communities
		return keepSpec(&o.Status.LastGood, s.Generation, spec)
	case *v1beta1.BFDProfile:
		return keepSpec(&o.Status.LastGood, s.Generation, o.Spec)
	case *v1beta2.BGPPeer:
		return keepPeer(o, s)
	}
	return false, nil
}

// keepSpec makes kept say spec, and reports whether it did not.
func keepSpec(kept **v1beta1.LastGood, generation int64, spec any) (bool, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return false, fmt.Errorf("keep the good version: %w", err)
	}
	if old := *kept; old != nil && old.Generation == generation && sameJSON(old.Spec.Raw, raw) {
		return false, nil
	}
	*kept = &v1beta1.LastGood{Generation: generation, Spec: runtime.RawExtension{Raw: raw}}
	return true, nil
}

func keepPeer(o *v1beta2.BGPPeer, s *config.Status) (bool, error) {
	spec := o.Spec
	now := v1beta1.LastGoodPeer{PasswordInSpec: spec.Password != ""}
	spec.Password = ""
	if s.Profile != nil {
		raw, err := json.Marshal(profileSpec(s.Profile))
		if err != nil {
			return false, fmt.Errorf("keep the BFD profile: %w", err)
		}
		now.BFDProfile = &runtime.RawExtension{Raw: raw}
	}
	old := o.Status.LastGood
	kept := &v1beta1.LastGood{}
	if old != nil {
		kept = &old.LastGood
	}
	changed, err := keepSpec(&kept, s.Generation, spec)
	if err != nil {
		return false, err
	}
	if !changed && old.PasswordInSpec == now.PasswordInSpec && sameJSON(rawOf(old.BFDProfile), rawOf(now.BFDProfile)) {
		return false, nil
	}
	now.LastGood = *kept
	o.Status.LastGood = &now
	return true, nil
}

// profileSpec is the inverse of what core/config makes of a profile: all is set.
func profileSpec(p *lb.BFDProfile) v1beta1.BFDProfileSpec {
	return v1beta1.BFDProfileSpec{
		ReceiveInterval: new(uint32(p.Receive.Milliseconds())), TransmitInterval: new(uint32(p.Transmit.Milliseconds())),
		EchoInterval: new(uint32(p.EchoInterval.Milliseconds())), DetectMultiplier: new(uint32(p.Multiplier)),
		MinimumTTL: new(uint32(p.MinTTL)), EchoMode: new(p.Echo), PassiveMode: new(p.Passive),
	}
}

func rawOf(r *runtime.RawExtension) []byte {
	if r == nil {
		return nil
	}
	return r.Raw
}

// sameJSON reports whether two texts say the same, in whatever order: the API server
// has its own.
func sameJSON(a, b []byte) bool {
	return bytes.Equal(sortedJSON(a), sortedJSON(b))
}

// sortedJSON returns text in the one form that it can have, or as it is if it is none.
func sortedJSON(text []byte) []byte {
	var v any
	if json.Unmarshal(text, &v) != nil {
		return text
	}
	out, err := json.Marshal(v)
	if err != nil {
		return text
	}
	return out
}

// keptSpec reads what was kept; nil if that is nothing, or makes no sense.
func keptSpec[T any](raw []byte) *T {
	var spec T
	if len(raw) == 0 || json.Unmarshal(raw, &spec) != nil {
		return nil
	}
	return &spec
}

// specOf returns the spec that was kept.
func specOf[T any](kept *v1beta1.LastGood) *T {
	if kept == nil {
		return nil
	}
	return keptSpec[T](kept.Spec.Raw)
}

// keptPeer returns the last good version of a peer, or nil.
func keptPeer(kept *v1beta1.LastGoodPeer) *config.LastPeer {
	if kept == nil {
		return nil
	}
	spec := keptSpec[v1beta2.BGPPeerSpec](kept.Spec.Raw)
	if spec == nil {
		return nil
	}
	spec.Password = "" // there is none but for who wrote one in by hand
	last := &config.LastPeer{BGPPeer: convertPeerSpec(spec), Inline: kept.PasswordInSpec}
	if p := keptSpec[v1beta1.BFDProfileSpec](rawOf(kept.BFDProfile)); p != nil {
		last.Profile = new(convertProfileSpec(p))
	}
	return last
}
