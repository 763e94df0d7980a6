//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// armedEnv names the file whose first line is the point at which this process dies next.
const armedEnv = "SALLYPORT_FAILPOINT"

var (
	armed = os.Getenv(armedEnv)
	mu    sync.Mutex // only one goroutine dies
)

// Hit kills this process, as SIGKILL does, if name is the first line of the armed file; "name 3" is the
// third time that it is passed. The line is taken out first, so that the next process goes on to the point
// after it. A name that Points lacks panics.
func Hit(name string) {
	if !slices.Contains(Points, name) {
		panic("failpoint " + name + " is not in the list")
	}
	if armed == "" {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	all, err := os.ReadFile(armed)
	if err != nil {
		return
	}
	line, rest, _ := strings.Cut(string(all), "\n")
	point, count, _ := strings.Cut(line, " ")
	if point != name {
		return
	}
	if n, _ := strconv.Atoi(count); n > 1 {
		if err := os.WriteFile(armed, []byte(fmt.Sprintf("%s %d\n%s", name, n-1, rest)), 0o600); err != nil {
			panic(err)
		}
		return
	}
	if err := os.WriteFile(armed, []byte(rest), 0o600); err != nil {
		panic(err)
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
