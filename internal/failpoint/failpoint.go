// Package failpoint names the moments at which a kill of the daemon is worst: just after a step that
// cannot be taken back, before anybody knows of it. A test build (tag failpoint) dies at the one that a
// test asks for; in every other build Hit is empty, so that nothing in the environment of a production
// daemon can kill it or slow it down.
package failpoint

// Points are all of them, in the order in which a pod's life passes them. security.TestFailpoints holds
// the list to the calls in the code, and test/e2e.TestKilledAtEveryPoint dies at each.
var Points = []string{
	// any file of ours, before it takes its name
	"file-written",
	// start of the daemon
	"audit-segment", "boot-noted",
	// policy
	"policy-kept", "policy-marked",
	// any decision
	"audit-written", "audit-synced",
	// pull
	"blob-fetched", "layer-committed", "image-stored", "evidence-written", "image-recorded",
	// pod
	"pod-key", "pod-recorded", "pod-directory", "shm-mounted",
	"pin-file", "pin-mounted", "namespaces-pinned",
	"network-recorded", "network-added",
	"init-bundle", "init-bound", "init-created", "init-recorded", "init-started",
	"pod-ready", "pod-published",
	// container
	"container-key", "container-recorded", "bundle-made", "layer-owned", "layer-mounted", "rootfs-bound",
	"mount-bound", "volume-mounted", "spec-written", "monitor-started", "monitor-told", "container-created",
	"created-recorded", "container-published",
	// start
	"start-recorded", "container-started", "container-verified", "running-recorded",
	// stop
	"stop-signalled", "exit-seen", "exit-recorded", "container-killed",
	// removal
	"runtime-deleted", "layer-unmounted", "layer-removed", "container-unmounted", "bundle-removed",
	"record-removed", "key-freed",
	"init-deleted", "init-removed", "network-deleted", "network-forgotten", "pod-stopped",
	"pin-unmounted", "namespaces-unpinned", "pod-files-removed", "pod-directory-removed",
	// removal of an image
	"image-record-removed", "image-forgotten", "image-deleted",
}
