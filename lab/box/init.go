package box

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// initReady is what pid 1 writes to its report pipe when the box is set up; anything else is the error.
const initReady = "ready"

// runInit is the main function of a box's pid 1: descriptor 3 closes when the owner lets the box go, 4 takes the report.
func runInit() error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	control, report := os.NewFile(3, "control"), os.NewFile(4, "report")
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, control)
		close(gone)
	}()
	var spec Spec
	err := json.Unmarshal([]byte(os.Args[2]), &spec)
	if err == nil {
		err = setUp(Dir(os.Args[1])+"/box/"+spec.Name, spec)
	}
	text := initReady
	if err != nil {
		text = err.Error()
	}
	if _, writeErr := io.WriteString(report, text); writeErr != nil || err != nil {
		return errors.Join(err, writeErr)
	}
	if err := report.Close(); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	reapUntil(gone)
	return nil
}

// reapUntil takes away the orphans of the box, as pid 1 must, until the owner lets go. The kernel kills the rest when pid 1 ends.
func reapUntil(gone <-chan struct{}) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	for {
		select {
		case <-gone:
			return
		case <-children:
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

// setUp makes the box out of the new namespaces: mounts first, then the host name and the network's settings.
func setUp(dir string, spec Spec) error {
	if err := setMounts(dir, spec); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	for key, value := range spec.Sysctls {
		if err := os.WriteFile(sysctlPath(key), []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	return nil
}
