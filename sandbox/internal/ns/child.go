package ns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxAnswer bounds the line that sallyport-init writes.
const maxAnswer = 4 << 10

// child is a sallyport-init that waits inside the new namespaces. One goroutine owns it.
type child struct {
	process *os.Process // owned
	hold    *os.File    // owned; closing it lets the child exit
	answer  *os.File    // owned; the child's line
}

// start starts sallyport-init in new namespaces. It executes the descriptor that it opened, so that a
// process whose IDs are mapped away needs no path to the program, and so that the path is followed once.
func start(initPath string, j job) (*child, error) {
	program, err := os.OpenFile(initPath, unix.O_PATH, 0)
	if err != nil {
		return nil, fmt.Errorf("open sallyport-init: %w", err)
	}
	defer program.Close()
	childIn, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer childIn.Close()
	answer, childOut, err := os.Pipe()
	if err != nil {
		hold.Close()
		return nil, err
	}
	defer childOut.Close()
	// The program's number is ours: the child has our descriptors until exec, which closes all but 0-2.
	path := "/proc/self/fd/" + strconv.Itoa(int(program.Fd()))
	process, err := os.StartProcess(path, append([]string{"sallyport-init", "pins"}, j.words...), &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1"},
		Files: []*os.File{childIn, childOut, nil},
		Sys:   j.attr(),
	})
	if err != nil {
		hold.Close()
		answer.Close()
		return nil, fmt.Errorf("start sallyport-init: %w", err)
	}
	return &child{process, hold, answer}, nil
}

// attr is how the child is born. In a user namespace it becomes root there: an exec under an unmapped
// ID would lose all capabilities (capabilities(7)).
func (j job) attr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: j.flags}
	if j.flags&unix.CLONE_NEWUSER != 0 {
		attr.UidMappings, attr.GidMappings = j.uids, j.gids
		attr.GidMappingsEnableSetgroups = true
		attr.Credential = &syscall.Credential{}
	}
	return attr
}

// ready waits until the child has prepared its namespaces, says why not, or ctx ends.
func (c *child) ready(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.answer.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(c.answer, maxAnswer)).ReadString('\n')
	line = strings.TrimSuffix(line, "\n")
	switch {
	case line == "ready" && err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("wait for sallyport-init: %w", context.Cause(ctx))
	case strings.HasPrefix(line, "error "):
		return errors.New(strings.TrimPrefix(line, "error "))
	default:
		return fmt.Errorf("wait for sallyport-init: it answered %q: %w", line, err)
	}
}

// pin pins the child's namespaces at the paths of set, all or none.
func (c *child) pin(set Set) error {
	var done []string
	for _, k := range kinds {
		path := *set.path(k)
		if path == "" {
			continue
		}
		if err := pin(c.process.Pid, k, path); err != nil {
			for _, d := range done {
				err = errors.Join(err, unpin(d))
			}
			return err
		}
		done = append(done, path)
	}
	return nil
}

// end ends the child and takes its exit. Its namespaces live on by their pins alone.
func (c *child) end() {
	c.hold.Close()
	c.answer.Close()
	c.process.Kill() // it has nothing left to do; a stopped one would not see its input end
	c.process.Wait()
}
