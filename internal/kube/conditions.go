package kube

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Conditions of Services that the controller writes.
const (
	// ConditionAllocated says whether the Service has its addresses, and if not,
	// why.
	ConditionAllocated = prefix + "AddressAllocated"
	// ConditionAnnounced says from where its addresses are announced.
	ConditionAnnounced = prefix + "Announced"
)

// Condition is one condition of a Service.
type Condition struct {
	Type, Reason, Message string
	True                  bool
	Gone                  bool // it is not to be there
}

// Told returns all that the condition says in one line, with "true" or "false" before
// it; "" for one that is not to be there.
func (c Condition) Told() string {
	if c.Gone {
		return ""
	}
	return fmt.Sprintf("%t %s: %s", c.True, c.Reason, c.Message)
}

// setConditions makes o have the conditions that are wanted, and reports whether it
// had not. A Service that is not ours any more has none of them.
func setConditions(o *corev1.Service, want ServiceStatus) bool {
	changed := false
	if want.UID == "" {
		for _, t := range []string{ConditionAllocated, ConditionAnnounced} {
			changed = meta.RemoveStatusCondition(&o.Status.Conditions, t) || changed
		}
		return changed
	}
	for _, c := range want.Conditions {
		if c.Gone {
			changed = meta.RemoveStatusCondition(&o.Status.Conditions, c.Type) || changed
			continue
		}
		status := metav1.ConditionFalse
		if c.True {
			status = metav1.ConditionTrue
		}
		changed = meta.SetStatusCondition(&o.Status.Conditions, metav1.Condition{
			Type: c.Type, Status: status, Reason: c.Reason, Message: shorten(c.Message),
		}) || changed
	}
	return changed
}
