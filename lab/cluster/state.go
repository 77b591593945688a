package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/barelb/barelb/lab/box"
)

// State is what another process needs in order to use a running lab. It lies in the lab's directory and goes with it.
type State struct {
	Name       string         `json:"name"`
	Mode       Mode           `json:"mode"`
	Router     string         `json:"router"`
	Owner      int            `json:"owner"` // process id
	Bin        string         `json:"bin"`
	Kubeconfig string         `json:"kubeconfig,omitempty"`
	Nodes      int            `json:"nodes"`
	Boxes      map[string]int `json:"boxes"` // name → process id of its pid 1
}

const stateFile = "state.json"

// Load reads the state of a lab that is up, or on its way.
func Load(name string) (State, error) {
	if !box.Alive(name) {
		return State{}, fmt.Errorf("no lab %q is up", name)
	}
	text, err := os.ReadFile(filepath.Join(box.Dir(name), stateFile))
	if err != nil {
		return State{}, fmt.Errorf("lab %q is coming or going: %w", name, err)
	}
	var s State
	if err := json.Unmarshal(text, &s); err != nil {
		return State{}, fmt.Errorf("read state of lab %q: %w", name, err)
	}
	return s, nil
}

// saveState writes the state file, whole or not at all. Without it the lab works; only other processes do not find it.
func (c *Cluster) saveState() {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{
		Name: c.cfg.Name, Mode: c.cfg.Mode, Router: c.cfg.Router, Owner: os.Getpid(), Bin: c.cfg.Bin, Nodes: c.cfg.Nodes,
		Boxes: map[string]int{},
	}
	if c.pki != nil {
		s.Kubeconfig = c.Kubeconfig()
	}
	for _, b := range c.set.Boxes() {
		s.Boxes[b.Name()] = b.Pid()
	}
	text, err := json.Marshal(s)
	path := filepath.Join(c.set.Dir(), stateFile)
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o600)
	}
	if err == nil {
		_ = os.Rename(path+".new", path)
	}
}
