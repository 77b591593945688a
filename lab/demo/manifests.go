package demo

import (
	"fmt"
	"time"
)

// BGPAdvertisement announces the pool by BGP.
const BGPAdvertisement = `apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata:
  name: bgp
  namespace: metallb-system
spec:
  ipAddressPools:
  - bgp-pool
`

// Peer is the lab's router as a BGPPeer.
func Peer(name, addr string, nodeAS, routerAS uint32, holdTime string) string {
	return fmt.Sprintf(`apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata:
  name: %s
  namespace: metallb-system
spec:
  myASN: %d
  peerASN: %d
  peerAddress: %s
  holdTime: %s
`, name, nodeAS, routerAS, addr, holdTime)
}

// BFDProfile is the profile "fast", of an interval in whole milliseconds.
func BFDProfile(interval time.Duration) string {
	return fmt.Sprintf(`apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata:
  name: fast
  namespace: metallb-system
spec:
  receiveInterval: %[1]d
  transmitInterval: %[1]d
`, interval.Milliseconds())
}

// The lines that add to a Peer the profile "fast", and graceful restart.
const (
	WithBFD             = "  bfdProfile: fast\n"
	WithGracefulRestart = "  enableGracefulRestart: true\n"
)
