package policy

import (
	"errors"
	"fmt"
	"strconv"
)

// maxLogs is the most logs that one signature may be asked to be in; there are hardly so many.
const maxLogs = 8

// demand says what beside the signature must be proved: in how many transparency logs it is, in how many
// certificate logs its certificate, and that its time is known.
type demand struct {
	logs, scts  int
	timestamped bool
}

// demands reads rekor, sct and timestamp. A short-lived certificate is worth something only at a
// proved time, and one that no log holds may have been issued in secret, so for keyless all three are
// required unless the text lowers them; a bare key proves who, with no log and no time.
func (y authorityYAML) demands(a *authority) (err error) {
	keyless := a.key == nil
	byDefault := 0
	if keyless {
		byDefault = 1
	}
	if a.demand.logs, err = howMany("rekor", y.Rekor, byDefault); err != nil {
		return err
	}
	if a.demand.scts, err = howMany("sct", y.SCT, byDefault); err != nil {
		return err
	}
	switch y.Timestamp {
	case "":
		a.demand.timestamped = keyless
	case "required":
		a.demand.timestamped = true
	case "none":
	default:
		return fmt.Errorf("timestamp: %q; want required or none", y.Timestamp)
	}
	if keyless && !a.demand.timestamped {
		return errors.New("timestamp: none; a short-lived certificate proves nothing without a time")
	}
	if !keyless && a.demand.scts > 0 {
		return fmt.Errorf("sct: %s; a key has no certificate", y.SCT)
	}
	return nil
}

// howMany reads in how many logs something must be.
func howMany(field, word string, byDefault int) (int, error) {
	switch word {
	case "":
		return byDefault, nil
	case "required":
		return 1, nil
	case "none":
		return 0, nil
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 1 || n > maxLogs {
		return 0, fmt.Errorf("%s: %q; want required, none or a number of logs from 1 to %d", field, word, maxLogs)
	}
	return n, nil
}

func count(n int) string {
	if n == 0 {
		return "no"
	}
	return fmt.Sprint(n)
}

// missing ends a sentence about have logs of the wanted number.
func missing(field string, have, want int) string {
	plural := ""
	if have > 1 {
		plural = "s"
	}
	if want == 1 {
		return fmt.Sprintf("%s (%s: required)", plural, field)
	}
	return fmt.Sprintf("%s, want %d (%s: %d)", plural, want, field, want)
}
