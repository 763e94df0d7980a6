package stats

import (
	"testing"

	"sallyport/test/ownnet"
)

func TestMain(m *testing.M) { ownnet.Main(m) }
