package demo

import "fmt"

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

// WatchedPeer is Peer with BFD at 100 ms and graceful restart, and the BFDProfile that it names.
func WatchedPeer(name, addr string, nodeAS, routerAS uint32, holdTime string) string {
	return `apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata:
  name: fast
  namespace: metallb-system
spec:
  receiveInterval: 100
  transmitInterval: 100
---
` + Peer(name, addr, nodeAS, routerAS, holdTime) + `  bfdProfile: fast
  enableGracefulRestart: true
`
}
