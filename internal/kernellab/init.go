package kernellab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"

	"golang.org/x/sys/unix"
)

// inside is set where the test runs in the machine.
const inside = "BARELB_TEST_KERNELLAB"

// Main is the machine's init, and ends with the machine. Elsewhere it returns at once.
func Main() {
	if _, err := os.Stat(planFile); os.Getpid() != 1 || err != nil {
		return
	}
	status, err := serve()
	if err != nil {
		fmt.Println("kernellab:", err)
		status = -1
	}
	fmt.Printf("%s%d\n", exitLine, status)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // qemu ends at that
	select {}
}

// serve sets the machine up and runs the test, whose exit status it returns.
func serve() (int, error) {
	for _, m := range []struct{ kind, at, options string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""}, {"tmpfs", "/run", "mode=755"}, {"tmpfs", "/tmp", "mode=1777"},
	} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.options); err != nil {
			return 0, fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	var p plan
	text, err := os.ReadFile(planFile)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return 0, fmt.Errorf("read plan: %w", err)
	}
	for _, file := range p.Modules {
		content, err := os.ReadFile(file)
		if err == nil {
			err = unix.InitModule(content, "")
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, fmt.Errorf("load %s: %w", file, err)
		}
	}
	cmd := exec.Command(testFile, "-test.run=^"+regexp.QuoteMeta(p.Test)+"$", "-test.v", "-test.timeout="+limit.String())
	cmd.Env = []string{inside + "=1", "CI=true", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	return 0, err
}
