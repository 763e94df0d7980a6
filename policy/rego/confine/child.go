package confine

import (
	"bufio"
	"container/list"
	"context"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"sallyport/policy/rego"
)

// name is the child's first argument, by which Init knows it; the second is its memory in bytes.
const name = "sallyport-rego"

// maxCompiled bounds the bundles that the child keeps compiled; another is compiled again when it is
// next asked.
const maxCompiled = 128

// Init is the child's whole life where this process was started as one: it confines itself, serves its
// standard input and output and exits. Anywhere else it does nothing. Call it first in main.
func Init() {
	if len(os.Args) != 2 || os.Args[0] != name {
		return
	}
	memory, err := strconv.ParseInt(os.Args[1], 10, 64)
	if err != nil || memory <= 0 {
		os.Exit(3)
	}
	debug.SetTraceback("none")
	debug.SetMemoryLimit(memory / 2) // the collector works harder before the kernel says no
	if err := enter(uint64(memory)); err != nil {
		_ = writeFrame(os.Stdout, answer{Err: "confine: " + err.Error()})
		os.Exit(3)
	}
	serve(os.Stdin, os.Stdout)
	os.Exit(0)
}

// serve answers until in ends.
func serve(in io.Reader, out io.Writer) {
	c := &cache{order: list.New(), at: map[string]*list.Element{}}
	var mu sync.Mutex // one message at a time
	if writeFrame(out, answer{}) != nil {
		return
	}
	r := bufio.NewReaderSize(in, 64<<10)
	for {
		var q request
		if readFrame(r, &q) != nil {
			return
		}
		go func() {
			a := c.answer(q)
			mu.Lock()
			defer mu.Unlock()
			if writeFrame(out, a) != nil {
				os.Exit(0)
			}
		}()
	}
}

// cache keeps the bundles that were used last compiled.
type cache struct {
	mu    sync.Mutex
	order *list.List // guarded by mu; of *entry, the latest first
	at    map[string]*list.Element
}

type entry struct {
	key   string
	rules *rego.Rules
}

func (c *cache) answer(q request) (a answer) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			a = answer{ID: q.ID, Err: "the rules panicked"}
		}
		a.Took = time.Since(start)
	}()
	a.ID = q.ID
	rules := c.get(q.Key)
	if rules == nil {
		if q.Modules == nil {
			a.Missing = true
			return a
		}
		compiled, err := rego.Compile(rego.Options{Modules: q.Modules, Data: q.Data, Packages: q.Packages})
		if err != nil {
			a.Err = err.Error()
			return a
		}
		rules = compiled.(*rego.Rules)
		c.put(q.Key, rules)
	}
	a.Verbs = rules.Verbs()
	if q.Verb == "" {
		return a
	}
	var err error
	if a.Deny, a.Warn, err = rules.Ask(context.Background(), q.Verb, q.Input, time.Unix(0, q.Now).UTC()); err != nil {
		return answer{ID: q.ID, Err: err.Error()}
	}
	return a
}

func (c *cache) get(key string) *rego.Rules {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.at[key]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*entry).rules
}

func (c *cache) put(key string, r *rego.Rules) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at[key] != nil {
		return
	}
	c.at[key] = c.order.PushFront(&entry{key, r})
	if c.order.Len() > maxCompiled {
		old := c.order.Back()
		delete(c.at, old.Value.(*entry).key)
		c.order.Remove(old)
	}
}
