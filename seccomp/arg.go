package seccomp

import (
	"fmt"
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// arg is one comparison of a syscall's argument, as libseccomp has it: unsigned, 64 bits. For
// SCMP_CMP_MASKED_EQ value is the mask and two is what the masked argument must equal.
type arg struct {
	index uint
	op    specs.LinuxSeccompOperator
	value uint64
	two   uint64
}

// truth is what a comparison comes to.
type truth uint8

const (
	sometimes truth = iota
	always
	impossible
)

// canonical rewrites EQ as a masked comparison, and masks what the kernel reads as an int to the low
// 32 bits, so that rubbish in the high half changes neither the verdict nor the call. Comparisons that
// always or never hold are named: libseccomp 2.5.4 miscompiles some, such as "below 0".
func (a arg) canonical(syscall string) (arg, truth) {
	switch {
	case a.op == specs.OpLessThan && a.value == 0, a.op == specs.OpGreaterThan && a.value == math.MaxUint64:
		return a, impossible
	case a.op == specs.OpGreaterEqual && a.value == 0, a.op == specs.OpLessEqual && a.value == math.MaxUint64:
		return a, always
	}
	if a.op == specs.OpEqualTo {
		a = arg{index: a.index, op: specs.OpMaskedEqual, value: math.MaxUint64, two: a.value}
		if isInt(syscall, a.index) {
			a.two &= math.MaxUint32 // a sign-extended constant such as -100 (AT_FDCWD)
		}
	}
	if a.op == specs.OpMaskedEqual && isInt(syscall, a.index) {
		a.value &= math.MaxUint32
		a.two &= math.MaxUint32
	}
	switch {
	case a.op != specs.OpMaskedEqual:
		return a, sometimes
	case a.two&^a.value != 0:
		return a, impossible
	case a.value == 0:
		return a, always
	}
	return a, sometimes
}

// oci undoes canonical where the plain form says the same.
func (a arg) oci() specs.LinuxSeccompArg {
	if a.op == specs.OpMaskedEqual && a.value == math.MaxUint64 {
		return specs.LinuxSeccompArg{Index: a.index, Op: specs.OpEqualTo, Value: a.two}
	}
	return specs.LinuxSeccompArg{Index: a.index, Op: a.op, Value: a.value, ValueTwo: a.two}
}

// holds reports whether v satisfies a.
func (a arg) holds(v uint64) bool {
	switch a.op {
	case specs.OpNotEqual:
		return v != a.value
	case specs.OpLessThan:
		return v < a.value
	case specs.OpLessEqual:
		return v <= a.value
	case specs.OpEqualTo:
		return v == a.value
	case specs.OpGreaterEqual:
		return v >= a.value
	case specs.OpGreaterThan:
		return v > a.value
	case specs.OpMaskedEqual:
		return v&a.value == a.two
	}
	return false
}

func (a arg) String() string {
	switch a.op {
	case specs.OpMaskedEqual:
		if a.value == math.MaxUint64 || a.value == math.MaxUint32 {
			return fmt.Sprintf("argument %d is %d", a.index, a.two)
		}
		return fmt.Sprintf("argument %d & %#x is %#x", a.index, a.value, a.two)
	case specs.OpEqualTo:
		return fmt.Sprintf("argument %d is %d", a.index, a.value)
	case specs.OpNotEqual:
		return fmt.Sprintf("argument %d is not %d", a.index, a.value)
	case specs.OpLessThan:
		return fmt.Sprintf("argument %d is below %d", a.index, a.value)
	case specs.OpLessEqual:
		return fmt.Sprintf("argument %d is at most %d", a.index, a.value)
	case specs.OpGreaterEqual:
		return fmt.Sprintf("argument %d is at least %d", a.index, a.value)
	}
	return fmt.Sprintf("argument %d is above %d", a.index, a.value)
}

// exact reports whether a holds for one value only, and which.
func (a arg) exact() (uint64, bool) {
	return a.two, a.op == specs.OpMaskedEqual && a.value == math.MaxUint64
}

// conjunction is how two comparisons of one argument combine.
type conjunction uint8

const (
	unknown conjunction = iota // not one comparison: the caller must take the safe side
	never                      // no value satisfies both
	one                        // the returned comparison says the same as both
)

// and combines two canonical comparisons of one argument.
func (a arg) and(b arg) (arg, conjunction) {
	if a == b {
		return a, one
	}
	if a.op == specs.OpMaskedEqual && b.op == specs.OpMaskedEqual {
		if common := a.value & b.value; a.two&common != b.two&common {
			return arg{}, never
		}
		return arg{index: a.index, op: specs.OpMaskedEqual, value: a.value | b.value, two: a.two | b.two}, one
	}
	for range 2 {
		if v, ok := a.exact(); ok {
			if b.holds(v) {
				return a, one
			}
			return arg{}, never
		}
		a, b = b, a
	}
	loA, hiA, okA := a.interval()
	loB, hiB, okB := b.interval()
	if okA && okB {
		return between(a.index, max(loA, loB), min(hiA, hiB))
	}
	// An equality of 32 bits and a range: the one value in the range if that ends below 2^32, all of
	// them if it begins at or below the value and has no end.
	for range 2 {
		if lo, hi, ok := a.interval(); ok && b.op == specs.OpMaskedEqual && b.value == math.MaxUint32 {
			switch {
			case hi <= math.MaxUint32:
				return between(b.index, max(lo, b.two), min(hi, b.two))
			case lo <= b.two:
				return b, one
			}
		}
		a, b = b, a
	}
	// An equality of some bits and an inequality with a value that lacks them.
	for range 2 {
		if a.op == specs.OpNotEqual && b.op == specs.OpMaskedEqual && a.value&b.value != b.two {
			return b, one // b's values all differ from a.value
		}
		a, b = b, a
	}
	return arg{}, unknown
}

// interval is the closed range of values that satisfy a. ok is false where they are not one range, or
// are empty.
func (a arg) interval() (lo, hi uint64, ok bool) {
	switch {
	case a.op == specs.OpLessThan && a.value > 0:
		return 0, a.value - 1, true
	case a.op == specs.OpLessEqual:
		return 0, a.value, true
	case a.op == specs.OpGreaterThan && a.value < math.MaxUint64:
		return a.value + 1, math.MaxUint64, true
	case a.op == specs.OpGreaterEqual:
		return a.value, math.MaxUint64, true
	}
	return 0, 0, false
}

func between(index uint, lo, hi uint64) (arg, conjunction) {
	switch {
	case lo > hi:
		return arg{}, never
	case lo == hi:
		return arg{index: index, op: specs.OpMaskedEqual, value: math.MaxUint64, two: lo}, one
	case lo == 0:
		return arg{index: index, op: specs.OpLessEqual, value: hi}, one
	case hi == math.MaxUint64:
		return arg{index: index, op: specs.OpGreaterEqual, value: lo}, one
	}
	return arg{}, unknown
}
