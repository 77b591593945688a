package box

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// reaper is the owner's end of the process that cleans up after it.
type reaper struct {
	cmd    *exec.Cmd
	alive  *os.File // the write end of a pipe; it closes when the owner ends, however that happens
	report *os.File // what the reaper could not do; empty if all went well
}

// What the reaper reports first: that the lab exists now, or that it existed before. Anything else is an error, as is all that follows.
const (
	reaperReady  = "ready\n"
	reaperExists = "exists\n"
)

// startReaper starts the reaper of a lab, which locks the lab's name and makes its directory: whatever a lab leaves on the machine is made
// by the process that removes it, so there is no moment at which killing the owner leaves something.
func startReaper(name string) (*reaper, error) {
	watched, alive, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer watched.Close() //nolint:errcheck // the reaper has its own copy
	report, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make pipe: %w", err), alive.Close())
	}
	owner := fmt.Sprintf("%d %s\n", os.Getpid(), startTime(os.Getpid()))
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{argReaper, name, owner},
		Dir:         "/",
		ExtraFiles:  []*os.File{watched, out},
		SysProcAttr: &unix.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	_ = out.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start reaper: %w", err), alive.Close(), report.Close())
	}
	r := &reaper{cmd: cmd, alive: alive, report: report}
	first := make([]byte, len(reaperReady))
	n, _ := io.ReadFull(report, first)
	switch string(first[:n]) {
	case reaperReady:
		return r, nil
	case reaperExists[:len(reaperReady)]:
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrExists, name), r.release())
	}
	text, _ := io.ReadAll(report)
	return nil, errors.Join(fmt.Errorf("start reaper: %s%s", first[:n], text), r.release())
}

// finish lets the reaper do its work now and waits for it.
func (r *reaper) finish() error {
	err := r.alive.Close()
	text, readErr := io.ReadAll(r.report)
	if len(text) > 0 {
		err = errors.Join(err, errors.New(string(text)))
	}
	return errors.Join(err, readErr, r.release())
}

// release waits for the reaper and lets go of its pipes.
func (r *reaper) release() error {
	_ = r.alive.Close()
	_ = r.report.Close()
	if err := r.cmd.Wait(); err != nil {
		return fmt.Errorf("wait for reaper: %w", err)
	}
	return nil
}

// runReaper is the main function of the reaper: descriptor 3 closes when the owner ends, 4 takes the report.
func runReaper() error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	name, owner := os.Args[1], os.Args[2]
	watched, report := os.NewFile(3, "owner"), os.NewFile(4, "report")
	say := func(text string) { _, _ = io.WriteString(report, text) } // if nobody listens the owner has ended

	lock, err := claim(name, owner)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		say(reaperExists)
		return nil
	case err != nil:
		say(err.Error())
	default:
		say(reaperReady)
		_, _ = io.Copy(io.Discard, watched)
	}
	if lock == nil {
		return nil
	}
	defer lock.Close() //nolint:errcheck // held to the end
	if err := reap(name); err != nil {
		say(err.Error())
	}
	return nil
}

// claim removes what crashed labs have left, locks the lab's name, and makes what the lab needs of the machine.
// If it returns a lock, reap is due.
func claim(name, owner string) (*os.File, error) {
	shared, err := lockFile(global, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer shared.Close() //nolint:errcheck // nothing was written
	if err := sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("remove what earlier labs left: %w", err), leave())
	}
	lock, err := lockFile(filepath.Join(runDir, name+suffix), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return nil, err
	}
	if _, err := lock.WriteString(owner); err != nil {
		return lock, fmt.Errorf("write owner: %w", err)
	}
	if err := prepare(); err != nil {
		return lock, err
	}
	if err := os.MkdirAll(Dir(name), 0o755); err != nil {
		return lock, fmt.Errorf("make state directory: %w", err)
	}
	return lock, nil
}

func reap(name string) error {
	err := endBoxes(name) // before the global lock: other labs need not wait for it
	shared, lockErr := lockFile(global, unix.LOCK_EX)
	if lockErr != nil {
		return errors.Join(err, lockErr)
	}
	defer shared.Close() //nolint:errcheck // nothing was written
	return errors.Join(remove(name), os.RemoveAll(filepath.Join(runDir, name+suffix)), leave())
}
